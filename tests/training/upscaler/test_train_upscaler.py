import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from tests.pipeline.models import small_snapshot
from wsigen.config import (
    CriticConfig,
    DataConfig,
    PatchGroup,
    SampledGuidesConfig,
    UpscalerConfig,
    UpscalerLossConfig,
    UpscalerTrainConfig,
)
from wsigen.errors import DivergedError, InvalidValueError
from wsigen.nn.denoiser import load_denoiser
from wsigen.nn.snapshot import WEIGHTS, load_snapshot
from wsigen.nn.upscaler import Upscaler
from wsigen.training.processes import Processes
from wsigen.training.upscaler.sampled import SampledGuides, load_or_sample, sample
from wsigen.training.upscaler.train import train_upscaler
from wsigen.training.upscaler.update import UpscalerUpdate, _Noise


@pytest.fixture
def config(slides, tmp_path) -> UpscalerTrainConfig:
    return UpscalerTrainConfig(
        data=DataConfig(
            slides=slides,
            patches=[PatchGroup(size=32, batch=2), PatchGroup(size=64, batch=1, mpp_range=(0.5, 1.0))],
            mpp_range=(0.5, 4.0),
            workers=0,
        ),
        model=UpscalerConfig(channels=(8, 16), blocks=(1, 1), head_channels=(8, 8)),
        discriminator=CriticConfig(channels=(8, 16)),
        loss=UpscalerLossConfig(symmetry_every=2, r1_every=3),
        kimg=0.024,
        run_dir=tmp_path / "run",
        report_every=2,
        val_images=2,
        preview_mpp=2.0,
    )


def weights(run_dir):
    return load_file(run_dir / "snapshot" / WEIGHTS)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def stats(run_dir):
    return [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]


def test_run_leaves_a_snapshot_numbers_and_pictures(config):
    net = load_snapshot(Upscaler, train_upscaler(config))
    assert tuple(net.config["mpp_range"]) == (0.5, 4.0)
    assert all(225 <= c <= 255 for c in net.config["background"])
    reports = [r for r in stats(config.run_dir) if "loss" in r]
    assert {
        "adversarial",
        "discriminator",
        "features",
        "guide",
        "l1",
        "energy",
        "relief",
        "spectrum",
        "lr",
    } <= reports[0].keys()
    validation = [r["val"] for r in stats(config.run_dir) if "val" in r][-1]
    assert set(validation) == {"0.5-1", "1-4"}
    assert len(validation["0.5-1"]["power"]) == 3
    assert all(p > 0 for p in validation["1-4"]["power"])
    assert validation["1-4"]["haematoxylin"] == pytest.approx(1, abs=0.7)  # the guide has the colours
    assert "nuclei" in validation["0.5-1"]
    assert "nuclei" not in validation["1-4"]
    (stages,) = config.run_dir.glob("stages-*.png")
    with Image.open(stages) as image:
        assert image.size == (2 * 32, 2 * 3 * 32)
    (chains,) = config.run_dir.glob("chains-*.png")
    with Image.open(chains) as image:
        assert image.size == (4 * 384, 3 * 384)


def test_resumed_run_equals_one_that_never_stopped(config, tmp_path):
    straight = replace(config, run_dir=tmp_path / "straight")
    train_upscaler(straight)
    train_upscaler(replace(config, kimg=0.01))
    # The fall of the learning rate follows from the length of the run: a run cut short is another run.
    longer = replace(config, optim=replace(config.optim, cooldown=0.0))
    first, second = (replace(longer, run_dir=tmp_path / n) for n in ("first", "second"))
    train_upscaler(first)
    train_upscaler(replace(second, kimg=0.01))
    train_upscaler(second)
    assert_same(weights(first.run_dir), weights(second.run_dir))


def test_run_begins_with_the_weights_it_is_given(config, tmp_path):
    snapshot = train_upscaler(config)
    optim = replace(config.optim, lr=1e-12)
    on = replace(config, init=str(snapshot), run_dir=tmp_path / "on", kimg=0.004, optim=optim, seed=1)
    train_upscaler(on)
    for name, value in weights(config.run_dir).items():
        torch.testing.assert_close(weights(on.run_dir)[name], value, rtol=1e-5, atol=1e-6)
    other = replace(on, model=replace(config.model, channels=(8, 24)), run_dir=tmp_path / "other")
    with pytest.raises(InvalidValueError, match=r"channels \[8, 16\] and this run \[8, 24\]; set --model.ch"):
        train_upscaler(other)


def test_run_of_another_loss_is_refused(config):
    train_upscaler(config)
    with pytest.raises(InvalidValueError, match="holds a run with loss"):
        train_upscaler(replace(config, loss=replace(config.loss, guide=3.0), kimg=0.1))


def test_diverged_weights_are_never_kept(config, monkeypatch):
    good = train_upscaler(config)
    before = weights(config.run_dir)
    call = UpscalerUpdate.__call__

    def spoil(self, *args):
        losses = call(self, *args)
        self.G.out.bias.data[0] = float("nan")
        return losses

    monkeypatch.setattr(UpscalerUpdate, "__call__", spoil)
    with pytest.raises(DivergedError, match=r"is not finite at update .*; the last good checkpoint is kept"):
        train_upscaler(replace(config, kimg=0.04))
    assert_same(weights(good.parent), before)


def test_it_learns_how_strong_detail_is_that_the_guide_has_not(config):
    config = replace(
        config,
        data=replace(config.data, patches=[PatchGroup(size=32, batch=4, mpp_range=(0.5, 0.6))]),
        loss=UpscalerLossConfig(depth=0, energy=3.0, guide_noise=0.0),
        optim=replace(config.optim, lr=2e-3, cooldown=0.0),
        kimg=0.6,
        validate_every=10,
    )
    train_upscaler(config)
    energy = [r["energy"] for r in stats(config.run_dir) if "energy" in r]
    assert np.mean(energy[-20:]) < 0.8 * np.mean(energy[:10])  # 0.65 to 0.75 on several CPUs


def test_patches_fit_both_networks(config):
    deeper = replace(config, model=UpscalerConfig(channels=(8, 16, 16), blocks=(1, 1, 1)))
    assert (config.least_size(0), config.least_size(2), deeper.least_size(1)) == (4, 16, 16)
    narrow = replace(config.data, patches=[PatchGroup(size=36)])
    assert replace(config, data=narrow).data.patches[0].size == 36
    with pytest.raises(InvalidValueError, match=r"data.patches.size must be a multiple of 8 .*, got 36"):
        replace(deeper, data=narrow)
    with pytest.raises(InvalidValueError, match=r"data.patches.size must be a multiple of 8 .*, got 36"):
        replace(config, data=narrow, discriminator=CriticConfig(channels=(8, 8, 8)))


def test_shapes_that_cannot_be_are_named():
    with pytest.raises(InvalidValueError, match=r"model.blocks must be 2 numbers"):
        UpscalerConfig(channels=(8, 8), blocks=(1,))
    with pytest.raises(InvalidValueError, match=r"discriminator.channels must be two or more multiples of 8"):
        CriticConfig(channels=(8, 12))


class TestNoiseOfTheGuide:
    """Of many images of one colour: what is not that colour is noise."""

    @staticmethod
    def guides(config, strength: float, depth: int):
        config = replace(config, loss=replace(config.loss, guide_noise=strength))
        torch.manual_seed(0)
        step = UpscalerUpdate(
            config, Upscaler(channels=(8, 16), blocks=(1, 1)), Processes(Accelerator(cpu=True))
        )
        x, mpp = torch.full((400, 3, 32, 32), 0.5), torch.ones(400)
        noise = _Noise(0, range(400), x.device)
        with torch.no_grad():
            held_to, given, _ = step._guide(x, mpp, depth, noise, np.random.default_rng(0))
        return held_to, given

    def test_drawn_images_are_held_to_the_clean_guide(self, config):
        clean, given = self.guides(config, 0.3, depth=0)
        assert torch.equal(clean, torch.full((400, 3, 16, 16), 0.5))
        # E u⁴ of a uniform u is 1/5; two octaves of variance 1 each.
        assert (given - clean).square().mean().item() == pytest.approx(0.3**2 * 2 / 5, rel=0.2)

    def test_noise_of_the_second_octave_covers_two_by_two_pixels(self, config):
        clean, given = self.guides(config, 0.3, depth=0)
        pairs = (given - clean).reshape(400, 3, 16, 8, 2)
        covariance, variance = pairs.prod(-1).mean(), pairs.square().mean()
        assert (covariance / variance).item() == pytest.approx(0.5, abs=0.1)

    def test_own_stages_start_from_the_noisy_guide(self, config):
        held_to, given = self.guides(config, 0.3, depth=1)
        assert torch.equal(held_to, given)
        assert given.shape == (400, 3, 16, 16)
        _, quiet = self.guides(config, 0.0, depth=1)
        assert (given - quiet).abs().mean() > 0.03

    def test_without_noise_the_guide_is_the_mean_of_pixels(self, config):
        clean, given = self.guides(config, 0.0, depth=0)
        assert torch.equal(clean, given)


@pytest.mark.parametrize("through", [0.0, 1.0])
def test_gradients_change_the_stages_before_in_the_share_of_updates_that_is_asked(config, through):
    class Seen(UpscalerUpdate):
        def _depth(self, size, rng):
            return 2

        def _guide(self, x, mpp, *args, **kwargs):
            guide, y, error = super()._guide(x, mpp, *args, **kwargs)
            self.seen = (x, y, error)
            return guide, y, error

    torch.manual_seed(0)
    net = Upscaler(channels=(8, 16), blocks=(1, 1), head_channels=(8, 8))
    loss = replace(config.loss, through=through, guide_noise=0.0)
    step = Seen(replace(config, loss=loss), net, Processes(Accelerator(cpu=True)))
    losses = step(torch.rand(2, 3, 32, 32) * 2 - 1, torch.tensor([0.5, 1.0]), [0, 1], 0)
    x, y, error = step.seen
    assert losses["loss"].isfinite()
    assert y.requires_grad == error.requires_grad == bool(through)
    # The second stage is held to the first, and the first to the real image reduced: at least the latter.
    least = (torch.nn.functional.avg_pool2d(y, 4) - torch.nn.functional.avg_pool2d(x, 8)).abs().mean()
    assert error >= least.detach() * (1 - 1e-5) if through else error == 0


class TestSymmetry:
    """The term that shifts and the symmetries of the square change nothing but places."""

    @staticmethod
    def difference(step, size, shift, turns=0, flip=False):
        torch.manual_seed(1)
        y, z, mpp = torch.rand(2, 3, size, size), torch.randn(2, 9, size, size), torch.ones(2)
        with torch.no_grad():
            return float(step._symmetry(step.G(y, z, mpp), y, z, mpp, shift, turns, flip))

    @pytest.fixture
    def step(self, config):
        torch.manual_seed(0)
        net = Upscaler(channels=(8, 16), blocks=(1, 1))
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.data.mul_(3)
        return UpscalerUpdate(config, net, Processes(Accelerator(cpu=True)))

    def test_shifts_by_whole_cells_of_the_coarser_resolution_change_nothing(self, step):
        assert self.difference(step, 64, (0, 0)) < 1e-5

    @pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1)])
    def test_shifts_within_a_cell_show_the_pattern_of_pixel_shuffle(self, step, shift):
        assert self.difference(step, 64, shift) > 1e-3

    def test_without_the_coarser_resolution_no_shift_changes_anything(self, step):
        torch.nn.init.zeros_(step.G.up[0].weight)
        torch.nn.init.zeros_(step.G.up[0].bias)
        assert self.difference(step, 64, (1, 1)) < 1e-5

    @pytest.mark.parametrize(("turns", "flip"), [(1, False), (2, False), (0, True), (3, True)])
    def test_turning_shows_in_a_random_network(self, step, turns, flip):
        assert self.difference(step, 64, (0, 0), turns, flip) > 1e-3

    def test_guides_of_one_cell_are_not_cut(self, step):
        assert np.isfinite(self.difference(step, 2, (1, 1), 1))


@pytest.fixture
def guided(config, tmp_path):
    """The run with guides that a small denoiser samples, of 2 to 8 µm/px."""
    snapshot = small_snapshot(tmp_path / "denoiser")
    guides = SampledGuidesConfig(denoiser=str(snapshot), count=24, size=16, mpp_range=(2.0, 8.0))
    loss = replace(config.loss, sampled=1.0, symmetry=0.0)
    data = replace(config.data, patches=[PatchGroup(size=32, batch=2, mpp_range=(1.0, 4.0))])
    return replace(config, guides=guides, loss=loss, data=data)


def test_sampled_guides_are_those_of_the_denoiser_at_their_mpp(guided, tmp_path):
    values = {"count": 6, "size": 16, "mpp_range": (2.0, 8.0), "seed": 3}
    found = load_or_sample(tmp_path / "guides.pt", guided.guides.denoiser, **values)
    assert found.mpp.tolist() == pytest.approx([2 * 4 ** (i / 5) for i in range(6)], rel=1e-5)
    assert found.images.shape == (6, 3, 16, 16)
    again = load_or_sample(tmp_path / "guides.pt", "no such model", **values)  # from the file
    assert torch.equal(again.images, found.images)
    one = sample(load_denoiser(guided.guides.denoiser), **values)
    assert torch.allclose(one.images, found.images, atol=1e-3)


def test_a_guide_is_a_part_of_a_sample_of_about_its_mpp():
    images = torch.arange(40.0)[:, None, None, None].expand(40, 3, 8, 8).clone()
    images[..., 0] += 0.25  # so that symmetries show
    guides = SampledGuides(images, torch.logspace(1, 2, 40))
    rng = np.random.default_rng(0)
    drawn = guides.draw(torch.tensor([10.0, 31.6, 100.0]).repeat(50), 6, rng, among=8)
    assert drawn.shape == (150, 3, 6, 6)
    which = drawn.floor().amin((1, 2, 3))
    assert (which[0::3] < 8).all()
    assert ((which[1::3] >= 15) & (which[1::3] < 24)).all()
    assert (which[2::3] >= 32).all()
    assert len(set(which[1::3].tolist())) == 8
    edges = torch.stack([drawn[:, 0, 0].frac().mean(1), drawn[:, 0, :, 0].frac().mean(1)])
    assert (edges.amax(1) == 0.25).all()  # at the top after a quarter turn
    assert guides.fits(torch.tensor([10.0, 100.0]), 8)
    assert not guides.fits(torch.tensor([10.0, 100.0]), 9)
    assert not guides.fits(torch.tensor([9.0, 50.0]), 8)


def test_an_update_with_sampled_guides_is_held_to_them_alone(guided):
    class Seen(UpscalerUpdate):
        def _guide(self, *args, sampled, **kwargs):
            found = super()._guide(*args, sampled=sampled, **kwargs)
            self.seen = (sampled, found[0])
            return found

    torch.manual_seed(0)
    net = Upscaler(channels=(8, 16), blocks=(1, 1), head_channels=(8, 8))
    bank = SampledGuides(torch.full((4, 3, 16, 16), 0.5), torch.tensor([2.0, 3.0, 5.0, 8.0]))
    step = Seen(guided, net, Processes(Accelerator(cpu=True)), bank)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    losses = step(x, torch.tensor([1.5, 3.0]), [0, 1], 0)
    assert step.seen[0]
    assert (step.seen[1] == 0.5).all()
    assert losses["loss"].isfinite()
    assert all(losses[name].isnan() for name in ("l1", "energy", "relief", "features"))
    losses = step(x, torch.tensor([0.5, 3.0]), [2, 3], 1)  # no samples are as fine as the first's guide
    assert not step.seen[0]
    assert losses["energy"].isfinite()


def test_a_run_with_sampled_guides_resumes_to_the_same_weights(guided):
    guided = replace(guided, optim=replace(guided.optim, cooldown=0.0))
    train_upscaler(guided)
    straight = weights(guided.run_dir)
    other = replace(guided, run_dir=guided.run_dir.parent / "other")
    train_upscaler(replace(other, kimg=0.012))
    train_upscaler(other)
    assert_same(weights(other.run_dir), straight)
    assert all(np.isfinite(line["loss"]) for line in stats(guided.run_dir) if "loss" in line)
