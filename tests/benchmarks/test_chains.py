"""Chains: each stage from the one before, tiles without a seam, figures of what is made over the real."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import chains
from benchmarks.over_real import Figures, figures, grid, mean, ratios
from tests.synthetic import he_image, write_tiff
from wsigen.evaluation.phase import phase
from wsigen.geometry import Size
from wsigen.nn.snapshot import save_snapshot
from wsigen.nn.upscaler import Upscaler
from wsigen.sampling.spec import UpscaleSpec
from wsigen.sampling.upscale import UpscaledStage
from wsigen.slide.stains import saturation

SIDE = 2048


def small_upscaler() -> Upscaler:
    torch.manual_seed(0)
    net = Upscaler(channels=(8, 8), blocks=(1, 1), head_channels=(8, 4))
    torch.nn.init.normal_(net.out.weight, std=0.05)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases: of 1 mm an overview at 4 µm/px, and at 0.5 µm/px a crop of its middle."""
    top = tmp_path_factory.mktemp("chains")
    (top / "he").mkdir()
    lines = ["file,kind,group,mpp,native_mpp,x0_native,y0_native,height,width,encoding"]
    for n, group in enumerate(("EAS22/HE", "BS11/HE")):
        image = he_image(SIDE, seed=n)
        small = cv2.resize(image, (SIDE // 8, SIDE // 8), interpolation=cv2.INTER_AREA)
        write_tiff(top / "he" / f"{n}_overview.tif", small, 4.0)
        write_tiff(top / "he" / f"{n}_roi1.tif", np.ascontiguousarray(image[512:1536, 512:1536]), 0.5)
        lossy = "Q30" if n else ""
        lines.append(f"he/{n}_overview.tif,overview,{group},4.0,0.5,0,0,{SIDE // 8},{SIDE // 8},{lossy}")
        lines.append(f"he/{n}_roi1.tif,roi,{group},0.5,0.5,512,512,1024,1024,{lossy}")
    (top / "SOURCES.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return top


def the_cases(real: Path) -> list[chains.Case]:
    return chains.cases([real / "he"], [real / "SOURCES.csv"], ["EAS22/HE", "BS11/HE"])


def test_chains(real, tmp_path, capsys, monkeypatch):
    save_snapshot(small_upscaler(), tmp_path / "upscaler")
    found = the_cases(real)
    monkeypatch.setattr(chains, "cases", lambda *_: found)
    argv = ["--upscaler", str(tmp_path / "upscaler"), "--size", "40", "--out", str(tmp_path)]
    chains.main(argv)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["cases"] == ["EAS22/HE", "BS11/HE"]
    assert printed["0.5"]["cases"] == 1  # the other one is lossy
    assert printed["1"]["cases"] == 2
    assert printed["0.5"]["octave0"] < 0.5  # random weights make no detail
    page = (tmp_path / "chains.md").read_text(encoding="utf-8")
    assert f"| coherence | {printed['0.5']['coherence']:.2f} |" in page
    sheet = cv2.imread(str(tmp_path / "chains.jpg"))
    assert sheet.shape == (2 * (chains.PANEL + 22), 5 * (chains.PANEL + 6), 3)
    assert (tmp_path / "chains.jpg").stat().st_size <= 1_500_000


def test_a_region_lies_around_the_crop_and_is_what_the_overview_shows(real):
    case = the_cases(real)[0]
    centre = chains.place(case, 40)
    np.testing.assert_allclose(centre, 512.0, atol=8)
    coarse = chains.read(case.overview, centre, 8.0, 40).astype(float)
    fine = chains.read(case.crops[1], centre, 1.0, 320)
    reduced = cv2.resize(fine, (40, 40), interpolation=cv2.INTER_AREA).astype(float)
    apart = np.abs(reduced - coarse).mean()
    assert apart < 6
    assert apart < 0.7 * min(np.abs(np.roll(reduced, 1, axis) - coarse).mean() for axis in (0, 1))


def test_each_stage_is_made_of_the_one_before(real):
    net, case = small_upscaler(), the_cases(real)[0]
    made = chains.chain(net, case, 32, seed=5).images
    assert {m: len(i) for m, i in made.items()} == {8.0: 32, 4.0: 64, 2.0: 128, 1.0: 256, 0.5: 512}
    spec = UpscaleSpec(stage=3, size=Size.square(256), k=2, mpp=1.0, seed=5)
    again = UpscaledStage(spec, net, chains.Picture(made[2.0]), background=chains.GROUND)
    np.testing.assert_array_equal(made[1.0], again.read(spec.bounds))


def test_only_tissue_is_measured():
    glass = np.full((256, 256, 3), 243, np.uint8)
    assert chains.cut(glass) == []
    half = glass.copy()
    half[:, :128] = he_image(1024, seed=0)[384:640, 384:512]
    assert len(chains.cut(half)) == 2
    assert len(chains.cut(he_image(1024, seed=0), most=5)) == 5


def test_figures_of_a_set_over_itself_are_1():
    patches = chains.cut(he_image(512, seed=0))
    one = figures(patches, 0.5)
    assert isinstance(one, Figures)
    assert one.values["saturation"] == pytest.approx(np.mean([saturation(p) for p in patches]))
    assert one.values["coherence"] == pytest.approx(np.mean([phase(p, 0.5).coherence for p in patches]))
    found = ratios(one, one, 1)
    assert {v for k, v in found.values.items() if "relief" not in k and "grid" not in k} == {1.0}
    assert found.values["grid"] == found.values["grid_real"]
    assert found.values["relief"] == found.values["relief_real"]
    assert "nuclei_density" not in figures(patches, 2.0).values
    assert figures([], 0.5) is None


def test_cases_count_equally():
    small, large = (figures(chains.cut(he_image(n, seed=n)), 0.5) for n in (512, 768))
    both = mean([small, large])
    expected = (small.values["coherence"] + large.values["coherence"]) / 2
    assert both.values["coherence"] == pytest.approx(expected)
    assert both.patches == small.patches + large.patches


def test_grid_is_what_repeats_with_the_cells():
    rng = np.random.default_rng(0)
    noise = [rng.normal(128, 10, (128, 128, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2) for _ in range(8)]
    pattern = np.tile(rng.normal(0, 10, (4, 4, 1)), (32, 32, 3))
    both = [(n + pattern).clip(0, 255).astype(np.uint8) for n in noise]
    assert grid(noise) < 3 / np.sqrt(8 * 16 * 16)
    assert grid([np.full((64, 64, 3), 7, np.uint8)]) == 0
    assert 0.55 < grid(both) < 0.85  # as much pattern as noise: 1/√2, sampled from 16 values
    # Moved by one pixel from patch to patch, nothing repeats with the cells any more.
    moved = [np.roll(b, (i, 3 * i), (0, 1)) for i, b in enumerate(both)]
    assert grid(moved) < 0.4 * grid(both)
