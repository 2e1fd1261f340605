import urllib.error

import pytest
import torch

from tests.stain.style import published
from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.nn.snapshot import save_snapshot
from wsigen.stain.losses.vgg import MEAN, STD
from wsigen.stain.style.network import Decoder, Encoder
from wsigen.stain.style.weights import (
    import_style,
    load_style,
    translate_decoder,
    translate_encoder,
    untrained_style,
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


def test_weights_of_wct_have_names_of_their_own():
    """Its encoder begins with colours; layers are numbered through to the decoder's last."""
    vgg, decoder = published.seeded(published.normalised_vgg), published.seeded(published.decoder)
    up_to_relu4_1 = list(vgg.state_dict().items())[:20]
    names = [f"conv{i}.{kind}" for i in range(1, 20) for kind in ("weight", "bias")]
    renamed = dict(zip(names[:20], (value for _, value in up_to_relu4_1), strict=True))
    state, width, name = translate_encoder(renamed)
    assert (width, name) == (4, "WCT's normalised VGG-19")
    x = unit_image(32, 40)
    torch.testing.assert_close(encoder_of(state)(2 * x - 1), published.relu4_1(vgg)(x), atol=1e-6, rtol=1e-5)
    renamed = dict(zip(names[20:], decoder.state_dict().values(), strict=True))
    ours, wanted = translate_decoder(renamed)[0], translate_decoder(decoder.state_dict())[0]
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[key], wanted[key]) for key in ours)


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


@pytest.fixture
def files(tmp_path):
    """vgg_normalised.pth and decoder.pth, as published but narrow."""
    paths = tmp_path / "vgg_normalised.pth", tmp_path / "decoder.pth"
    for path, make in zip(paths, (published.normalised_vgg, published.decoder), strict=True):
        torch.save(published.seeded(make).state_dict(), path)
    return paths


def picture(*size):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))


def test_import_gives_what_the_published_networks_give(files):
    net = import_style(*files)
    x = picture(32, 48)
    vgg, decoder = (published.seeded(m) for m in (published.normalised_vgg, published.decoder))
    torch.testing.assert_close(net(2 * x - 1), 2 * decoder(published.relu4_1(vgg)(x)) - 1)
    assert net.config["width"] == 4
    assert net.config["source"] == "vgg_normalised.pth (AdaIN's normalised VGG-19), decoder.pth"
    assert not any(p.requires_grad for p in net.parameters())


def test_round_trip_through_a_snapshot(files, tmp_path):
    net = import_style(*files)
    save_snapshot(net, tmp_path / "style")
    x = 2 * picture(16, 24) - 1
    loaded = load_style(tmp_path / "style")
    assert torch.equal(loaded(x), net(x))
    assert dict(loaded.config)["source"] == net.config["source"]


def test_files_in_the_wrong_order_are_named(files):
    vgg, decoder = files
    with pytest.raises(SnapshotError, match=r"decoder\.pth: is not a known encoder"):
        import_style(decoder, vgg)
    with pytest.raises(SnapshotError, match=r"vgg_normalised\.pth: is not a known decoder"):
        import_style(vgg, vgg)


def test_widths_that_differ(files):
    vgg, decoder = files
    torch.save(published.decoder(8).state_dict(), decoder)
    with pytest.raises(SnapshotError, match=r"encoder of width 8, vgg_normalised\.pth has 4"):
        import_style(vgg, decoder)


def test_missing_and_damaged_files(files, tmp_path):
    vgg, decoder = files
    with pytest.raises(SnapshotError, match="no such file"):
        import_style(tmp_path / "none.pth", decoder)
    decoder.write_bytes(decoder.read_bytes()[:900])
    with pytest.raises(SnapshotError, match=r"decoder\.pth"):
        import_style(vgg, decoder)


def test_nan_is_named(files):
    vgg, decoder = files
    state = published.decoder().state_dict()
    state["28.bias"][0] = float("nan")
    torch.save(state, decoder)
    with pytest.raises(SnapshotError, match=r"convs\.8\.bias holds NaN"):
        import_style(vgg, decoder)


def test_a_pth_in_place_of_a_snapshot_says_how_to_convert_it(files):
    with pytest.raises(
        SnapshotError, match=r"is a file; convert it first: wsigen import-stainer VGG.pth --decoder"
    ):
        load_style(files[1])


@pytest.mark.parametrize("make", [published.normalised_vgg, published.torchvision_vgg19])
def test_encoder_from_a_file_and_decoder_from_a_seed(tmp_path, make):
    path = tmp_path / "vgg.pth"
    torch.save(published.seeded(make).state_dict(), path)
    nets = [untrained_style(str(path), seed=seed) for seed in (1, 1, 2)]
    assert nets[0].config["width"] == 4
    a, b, c = (n.state_dict() for n in nets)
    same = {k: (torch.equal(a[k], b[k]), torch.equal(a[k], c[k])) for k in a if k.endswith("weight")}
    assert all(same[k] == (True, k.startswith("encoder")) for k in same)
    trained = {k for k, p in nets[0].named_parameters() if p.requires_grad}
    assert trained == {k for k in a if k.startswith("decoder")}


def test_encoder_from_a_snapshot(files, tmp_path):
    net = import_style(*files)
    save_snapshot(net, tmp_path / "style")
    again = untrained_style(str(tmp_path / "style"))
    assert torch.equal(again.encoder(picture(16, 16)), net.encoder(picture(16, 16)))
    assert again.config["source"].endswith("(AdaIN's normalised VGG-19), decoder.pth")


def test_features_of_a_new_encoder_keep_their_size_through_the_layers():
    net = untrained_style("new", width=16)
    x = 2 * picture(64, 64) - 1
    sizes = [f.square().mean().item() for f in net.encoder.features(x)]
    assert all(0.1 < s / x.square().mean().item() < 10 for s in sizes)
    assert net.config["width"] == 16
    learning = {k.split(".")[0] for k, p in net.named_parameters() if p.requires_grad}
    assert learning == {"encoder", "decoder"}
    assert not any(p.requires_grad for p in net.encoder.colour.parameters())
    assert torch.equal(net.encoder.colour(x), x)


def test_without_a_network_the_file_to_fetch_is_named(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SnapshotError, match=r"vgg19: .*https://\S+/vgg19-\w+\.pth .*give its path"):
        untrained_style()


def test_file_of_another_network(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"layer1.0.conv1.weight": torch.zeros(4, 4, 3, 3)}, path)
    with pytest.raises(
        SnapshotError, match=r"resnet\.pth: is not a known encoder.*its first keys are layer1"
    ):
        untrained_style(str(path))
