import pytest
import torch

from tests.stain.style import published
from wsigen.errors import InvalidValueError
from wsigen.stain.losses.vgg import MEAN, STD
from wsigen.stain.style.network import Decoder, Encoder
from wsigen.stain.style.weights import (
    translate_decoder,
    translate_encoder,
)


def unit_image(*size):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3))


def encoder_of(state, width=4):
    net = Encoder(width)
    net.load_state_dict(state)
    return net


def test_normalised_vgg_gives_the_same_features():
    vgg = published.seeded(published.normalised_vgg)
    state, width, name = translate_encoder(vgg.state_dict())
    assert (width, name) == (4, "AdaIN's normalised VGG-19")
    x = unit_image(32, 40)
    torch.testing.assert_close(encoder_of(state)(2 * x - 1), published.relu4_1(vgg)(x), atol=1e-6, rtol=1e-5)


def test_torchvision_vgg_gives_the_same_features_away_from_the_border():
    vgg = published.seeded(published.torchvision_vgg19)
    state, width, name = translate_encoder(vgg.state_dict())
    assert (width, name) == (4, "torchvision's VGG-19")
    x = unit_image(160, 160)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    expected = vgg.features[:21]((x - mean) / std)  # it pads by zeros
    inner = (..., slice(6, 14), slice(6, 14))
    torch.testing.assert_close(encoder_of(state)(2 * x - 1)[inner], expected[inner], atol=1e-5, rtol=1e-4)


def test_published_decoder_paints_the_same():
    theirs = published.seeded(published.decoder)
    state, width = translate_decoder(theirs.state_dict())
    ours = Decoder(width)
    ours.load_state_dict(state)
    features = torch.randn(1, 32, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(features), 2 * theirs(features) - 1, atol=1e-6, rtol=1e-5)


def test_features_of_torchvision_alone_and_prefixes_of_other_programs():
    vgg = published.seeded(published.torchvision_vgg19)
    plain, *_ = translate_encoder(vgg.features.state_dict())
    wrapped, *_ = translate_encoder({f"module.{k}": v for k, v in vgg.state_dict().items()})
    assert all(torch.equal(plain[k], wrapped[k]) for k in plain)


def test_half_precision_weights_become_float32():
    state, *_ = translate_encoder(published.seeded(published.normalised_vgg).half().state_dict())
    assert {v.dtype for v in state.values()} == {torch.float32}


def test_both_are_found_in_one_file():
    vgg, decoder = published.normalised_vgg().state_dict(), published.decoder().state_dict()
    both = {f"vgg.{k}": v for k, v in vgg.items()} | {f"net.decoder.{k}": v for k, v in decoder.items()}
    assert torch.equal(translate_encoder(both)[0]["convs.3.weight"], vgg["12.weight"])
    assert torch.equal(translate_decoder(both)[0]["convs.1.weight"], decoder["5.weight"])


def test_unknown_files_are_described():
    state = {f"model.{i}.weight": torch.zeros(1) for i in range(9)}
    with pytest.raises(
        InvalidValueError, match=r"vgg_normalised\.pth.*first keys are model\.0\.weight, model\.1"
    ):
        translate_encoder(state)
    with pytest.raises(InvalidValueError, match=r"decoder\.pth.*its first keys are none"):
        translate_decoder({})


def test_an_encoder_with_channels_that_do_not_follow_on_is_refused():
    state = dict(published.normalised_vgg().state_dict())
    state["9.weight"] = torch.zeros(9, 4, 3, 3)
    with pytest.raises(InvalidValueError, match="is not a known encoder"):
        translate_encoder(state)


def test_a_normalised_vgg_without_its_colour_layer_is_refused():
    state = dict(published.normalised_vgg().state_dict())
    del state["0.bias"]
    with pytest.raises(InvalidValueError, match="is not a known encoder"):
        translate_encoder(state)
