import copy
import json

import pytest
import torch

from wsigen.diffusion.spectrum import combine
from wsigen.errors import InvalidValueError
from wsigen.nn.denoiser import Denoiser, load_denoiser
from wsigen.nn.snapshot import CONFIG, save_snapshot


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Denoiser(patchify=4, block_out_channels=(32, 64), pixel_channels=6, context_channels=4)
    for parameter in net.parameters():  # the output layer starts at zero: give every path a say
        torch.nn.init.normal_(parameter, std=0.05)
    return net.eval().requires_grad_(False)


def inputs(batch=2, size=32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, size, size, generator=generator)
    return x, torch.linspace(0.1, 2, batch), torch.full((batch,), 0.5)


def test_untrained_network_returns_the_preconditioned_input():
    net = Denoiser(patchify=2, block_out_channels=(32,))
    x, sigma, mpp = inputs()
    c_skip = 0.25 / (sigma**2 + 0.25)
    torch.testing.assert_close(net(x, sigma, mpp), c_skip[:, None, None, None] * x)


def test_untrained_network_of_octaves_is_a_linear_filter(tmp_path):
    net = Denoiser(patchify=2, block_out_channels=(32,))
    std = [[0.2, 0.01, 0.02], [1.0, 0.1, 0.3]]
    net.set_octave_std(std)
    x, sigma, mpp = inputs()
    filtered = combine(x, torch.zeros_like(x), sigma, torch.tensor(std))
    torch.testing.assert_close(net(x, sigma, mpp), filtered)
    save_snapshot(net, tmp_path / "snapshot")
    kept = load_denoiser(tmp_path / "snapshot")
    assert kept.config["octave_std"] == std
    torch.testing.assert_close(kept(x, sigma, mpp), filtered)


def test_untrained_network_is_the_filter_of_each_images_scale(tmp_path):
    """At a node of the table that of the node, between two of them that of the mean of both."""
    net = Denoiser(patchify=2, block_out_channels=(32,))
    fine, coarse = torch.tensor([[[0.2, 0.01, 0.02], [1.0, 0.1, 0.3]], [[0.1, 0.03, 0.02], [2.0, 0.3, 0.3]]])
    net.set_octave_std([fine.tolist(), coarse.tolist()], mpp=[2.0, 32.0])
    x, sigma, _ = inputs(batch=4)
    mpp = torch.tensor([0.5, 2.0, 8.0, 90.0])
    expected = torch.cat(
        [
            combine(x[i : i + 1], torch.zeros_like(x[:1]), sigma[i : i + 1], std)
            for i, std in enumerate([fine, fine, (fine + coarse) / 2, coarse])
        ]
    )
    torch.testing.assert_close(net(x, sigma, mpp), expected)
    save_snapshot(net, tmp_path / "snapshot")
    kept = load_denoiser(tmp_path / "snapshot")
    assert kept.config["octave_mpp"] == [2.0, 32.0]
    assert torch.equal(kept(x, sigma, mpp), net(x, sigma, mpp))


def test_snapshots_from_before_there_were_scales_give_what_they_gave(net, tmp_path):
    """One table for all µm/px, and no word of them in the config."""
    std = [[0.2, 0.01, 0.02]] * 3 + [[1.0, 0.1, 0.3]]
    old = copy.deepcopy(net)
    old.set_octave_std(std)
    save_snapshot(old, tmp_path / "old")
    config = json.loads((tmp_path / "old" / CONFIG).read_text())
    assert config.pop("octave_mpp") is None
    (tmp_path / "old" / CONFIG).write_text(json.dumps(config))
    x, sigma, mpp = inputs()
    c_in = (sigma**2 + 0.25).rsqrt()[:, None, None, None]
    F_x = old.raw(c_in * x, sigma.log(), mpp.log())
    before = combine(x, F_x, sigma, torch.tensor(std))
    torch.testing.assert_close(load_denoiser(tmp_path / "old")(x, sigma, mpp), before)
    old.set_octave_std([std, std], mpp=[0.1, 10.0])
    assert torch.equal(old(x, sigma, mpp), load_denoiser(tmp_path / "old")(x, sigma, mpp))


@pytest.mark.parametrize(
    ("std", "mpp", "reason"),
    [
        ([[0.2] * 3], [1.0, 2.0], r"octave_std must be a table of \(2, parts, 3\), got \(1, 3\)"),
        ([[[0.2] * 3]], None, r"octave_std must be a table of \(parts, 3\), got \(1, 1, 3\)"),
        ([[[0.2] * 3]] * 2, [2.0, 2.0], r"octave_mpp must be increasing µm/px > 0, got \[2.0, 2.0\]"),
        ([[0.2] * 2], None, r"table of \(parts, 3\), got \(1, 2\)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(std, mpp, reason):
    with pytest.raises(InvalidValueError, match=reason):
        Denoiser(patchify=2, block_out_channels=(32,)).set_octave_std(std, mpp)


@pytest.mark.parametrize(
    ("patchify", "levels", "octaves"), [(4, 3, 4), (2, 1, 1), (3, 2, 1), (6, 2, 2), (1, 1, 0)]
)
def test_octaves_are_as_many_as_any_input_can_be_halved(patchify, levels, octaves):
    net = Denoiser(patchify=patchify, block_out_channels=(32,) * levels)
    assert net.octaves == octaves
    assert net.stride % 2**octaves == 0


def test_every_image_of_a_batch_is_denoised_on_its_own(net):
    x, sigma, mpp = inputs(batch=3)
    together = net(x, sigma, mpp)
    alone = torch.cat([net(x[i : i + 1], sigma[i : i + 1], mpp[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_sigma_and_mpp_both_matter(net):
    x, sigma, mpp = inputs()
    out = net(x, sigma, mpp)
    assert (net(x, sigma, 2 * mpp) - out).abs().max() > 1e-4
    assert (net(x, 1.5 * sigma, mpp) - out).abs().max() > 1e-4


def test_mpp_is_felt_alike_at_fine_and_coarse_scales(net):
    # the raw number through a sinusoid would move the output far less between 0.3 and 0.5 than 60 and 100
    x, sigma, _ = inputs()

    def change(low, high):
        return (net(x, sigma, torch.full((2,), low)) - net(x, sigma, torch.full((2,), high))).abs().mean()

    assert 0.2 < change(0.3, 0.5) / change(60.0, 100.0) < 5


@pytest.mark.parametrize("size", [16, 24, 64])
def test_any_multiple_of_the_stride_will_do(net, size):
    assert net.stride == 8
    x, sigma, mpp = inputs(size=size)
    out = net(x, sigma, mpp)
    assert out.shape == x.shape
    assert torch.isfinite(out).all()


def test_single_pixels_reach_the_output_through_the_full_resolution_path(net):
    # two inputs that differ in one pixel only must differ there most, by more than the skip connection alone
    x, sigma, mpp = inputs(batch=1)
    bumped = x.clone()
    bumped[0, :, 13, 10] += 0.5
    c_skip = 0.25 / (sigma**2 + 0.25)
    difference = (net(bumped, sigma, mpp) - net(x, sigma, mpp)) - c_skip * (bumped - x)
    peak = divmod(int(difference.abs().sum(dim=1).argmax()), 32)
    assert abs(peak[0] - 13) <= 2
    assert abs(peak[1] - 10) <= 2


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    net = Denoiser(patchify=2, block_out_channels=(32, 32), pixel_channels=4, context_channels=4)
    torch.nn.init.normal_(net.pixel_out.weight)
    net(*inputs()).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


def with_classes(net: Denoiser) -> Denoiser:
    """The same network with two classes, whose vectors are still 0."""
    config = {k: v for k, v in net.config.items() if not k.startswith("_")}
    more = Denoiser(**{**config, "classes": ("liver", "skin")})
    assert more.load_state_dict(net.state_dict(), strict=False).missing_keys == ["class_embedding.weight"]
    return more.eval().requires_grad_(False)


def test_classes_change_nothing_before_they_are_learnt(net):
    x, sigma, mpp = inputs()
    more, labels = with_classes(net), torch.tensor([0, 1])
    assert torch.equal(more(x, sigma, mpp), net(x, sigma, mpp))
    assert torch.equal(more(x, sigma, mpp, labels), net(x, sigma, mpp))
    assert net.class_embedding is None


def test_each_class_has_a_vector_of_its_own_and_no_class_the_last(net, tmp_path):
    more = with_classes(net)
    torch.nn.init.normal_(more.class_embedding.weight, std=0.05)
    save_snapshot(more, tmp_path / "snapshot")
    more = load_denoiser(tmp_path / "snapshot")
    assert more.classes == ("liver", "skin")
    assert [more.class_number(name) for name in more.classes] == [0, 1]
    x, sigma, mpp = inputs()
    x, sigma, mpp = x[:1].expand(3, -1, -1, -1), sigma[:1].expand(3), mpp[:1].expand(3)
    liver, skin, none = more(x, sigma, mpp, torch.arange(3))
    for a, b in ((liver, skin), (liver, none), (skin, none)):
        assert (a - b).abs().max() > 1e-4
    torch.testing.assert_close(more(x, sigma, mpp)[0], none)


def test_unknown_classes_are_named_with_the_nearest(net):
    with pytest.raises(InvalidValueError, match=r"one of liver, skin, got 'Livr'; did you mean 'liver'\?"):
        with_classes(net).class_number("Livr")
    with pytest.raises(InvalidValueError, match=r"must be one of liver, skin, got 'bone'$"):
        with_classes(net).class_number("bone")
    with pytest.raises(InvalidValueError, match=r"class 'liver': this model has no classes"):
        net.class_number("liver")


def test_output_is_float32_under_autocast(net):
    x, sigma, mpp = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, sigma, mpp)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, net(x, sigma, mpp), atol=0.05, rtol=0.05)
