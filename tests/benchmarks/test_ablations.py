"""Every ablation runs, writes a page and a small figure, and prints finite numbers that are right."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.ablations import (
    baselines,
    distance,
    domains,
    interpolation,
    memory,
    normalisers,
    relaxation,
    scales,
    shift,
    steps,
    thumbnails,
)
from benchmarks.ablations import denoiser as training
from benchmarks.ablations.figure import LARGEST, draw_sheet
from benchmarks.ablations.options import Device, options, real_paths
from benchmarks.ablations.page import Column, environment, table
from benchmarks.ablations.picture import texture
from benchmarks.ablations.real import RealSlides, cut, tissue_places
from benchmarks.ablations.relaxation import blocks
from benchmarks.ablations.translator import compared, reduced
from tests.synthetic import he_image, write_tiff
from wsigen.errors import InvalidValueError
from wsigen.stain.normalise import LayerStats

Run = Callable[..., dict]
CPU = Device(torch.device("cpu"), torch.float32)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command and checks all that every command leaves behind; returns its rows by some columns."""

    def check(module: ModuleType, key: str, *argv: object) -> dict:
        words = [*map(str, argv), "--out", str(tmp_path)]
        result = module.main(words)
        name = module.__name__.rpartition(".")[2]
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
        page = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith("# ")
        assert f"`python benchmarks/ablations/{name}.py {' '.join(words)}`" in page
        assert "PyTorch" in page
        cells = [
            cell.strip() for line in page.splitlines() if line.startswith("|") for cell in line.split("|")
        ]
        assert not {"nan", "inf", "-inf"} & set(cells)
        assert not re.search(r"20\d\d-\d\d", page)  # no date
        assert f"]({name}.png)" in page
        assert (tmp_path / f"{name}.png").stat().st_size <= LARGEST
        with Image.open(tmp_path / f"{name}.png") as figure:
            assert min(figure.size) >= 100
        numbers = [v for row in result["rows"] for v in row.values() if not isinstance(v, str)]
        assert numbers
        assert all(v is not None and math.isfinite(v) for v in numbers)
        return {" ".join(str(row[k]) for k in key.split()): row for row in result["rows"]}

    return check


def sampling(denoiser: Path, slides: Path | str) -> list[object]:
    words: list[object] = ["--size", 128, "--stages", 1, "--seeds", 1, "--model", denoiser]
    return [*words, "--dtype", "float32", "--real", slides]


def test_steps(run: Run, denoiser: Path, slides: Path) -> None:
    argv = ["--heun", 2, 4, "--euler", 3, "--dpmpp-2m", 3]
    rows = run(steps, "solver", *sampling(denoiser, slides), *argv)
    assert set(rows) == {"heun", "euler", "dpmpp_2m", "real against real"}
    assert rows["heun"]["each"] == 7  # 2 · 4 - 1
    assert rows["euler"]["each"] == rows["dpmpp_2m"]["each"] == 3
    assert rows["euler"]["apart"] > 0
    assert "apart" not in rows["heun"]
    assert 0 < rows["real against real"]["distance"] < rows["euler"]["distance"]


def test_training(run: Run, slides: Path) -> None:
    argv = ["--slides", slides, "--minutes", 0.02, "--mpp-range", 0.5, 4]
    argv += ["--size", 16, "--images", 4, "--drawn", 4, "--patchify", 2, "--channels", 32]
    rows = run(training, "setting", *argv)
    assert list(rows) == ["16 px, σ_k by µm/px", "one σ_k for all µm/px", "32 px", "augmented"]
    for row in rows.values():
        assert row["images"] >= 4
        assert 0 < row["1-4"] < 2, "about that of a linear filter"
        assert row["detail"] > 0.2
    first, pooled = list(rows.values())[:2]
    assert first["0.5-1"] != pooled["0.5-1"]
    assert 0.9 * first["filter"] < pooled["filter"] < 2


def test_without_training_the_denoiser_is_its_filter(run: Run, slides: Path) -> None:
    argv = ["--slides", slides, "--minutes", 0, "--mpp-range", 0.5, 4, "--size", 16, "--images", 4]
    rows = run(training, "setting", *argv, "--drawn", 4, "--patchify", 2, "--channels", 32)
    for row in rows.values():
        assert row["images"] == 0
        assert row["filter"] == pytest.approx((row["0.5-1"] + row["1-4"]) / 2, abs=1e-4)


def test_steps_without_real_slides(run: Run, denoiser: Path) -> None:
    rows = run(steps, "solver", *sampling(denoiser, "none"), "--heun", 2, "--euler", 2, "--dpmpp-2m")
    assert set(rows) == {"heun", "euler"}
    assert all("distance" not in row for row in rows.values())


def test_relaxation(run: Run, denoiser: Path, slides: Path) -> None:
    argv = ["--steps", 4, "--relax", 0, 0.5, 1]
    rows = run(relaxation, "relax", *sampling(denoiser, slides), *argv)
    never, half, always = (rows[f"{r} of 4"] for r in (0, 2, 4))
    assert never["psnr"] < half["psnr"] < always["psnr"]
    assert (never["sigma"], always["sigma"]) == (80, 0)
    with pytest.raises(InvalidValueError, match="--relax"):
        relaxation.main(["--relax", "2"])


def test_shift(run: Run, denoiser: Path, slides: Path) -> None:
    rows = run(shift, "method", *sampling(denoiser, slides))
    assert len(rows) == 1 + 7 + 1
    assert "evaluations" not in rows["the guide, bicubic"]
    assert rows["no shift"]["evaluations"] == 4 * 9  # four patches, nine steps
    assert rows["mask-shift"]["evaluations"] == rows["overlap averaging"]["evaluations"] == 9 * 9
    assert rows["mask-shift"]["times"] == 2.25
    assert 1 < rows["random shift"]["times"] <= 2.25


def test_baselines(run: Run, denoiser: Path, slides: Path) -> None:
    rows = run(baselines, "guide method", *sampling(denoiser, slides))
    assert len(rows) == 5 + 5
    own = {
        key.removeprefix("stage above "): row for key, row in rows.items() if key.startswith("stage above")
    }
    real = {
        key.removeprefix("real, reduced "): row for key, row in rows.items() if row["guide"] != "stage above"
    }
    assert own["replication"]["psnr"] == baselines.EXACT
    assert own["diffusion, r = N"]["psnr"] > own["diffusion, relaxed"]["psnr"]
    assert real["bicubic"]["octave0"] < 0.5 < real["the original"]["octave0"]
    assert real["the original"]["distance"] < real["diffusion, relaxed"]["distance"]


def test_scales(run: Run, denoiser: Path, slides: Path) -> None:
    argv = ["--mpp", 0.5, 1, 64, "--patch", 64, "--patches", 16, "--steps", 2, "--model", denoiser]
    rows = run(scales, "mpp", *argv, "--real", slides)
    assert set(rows) == {"0.5", "1.0", "64.0"}
    assert rows["0.5"]["distance_real"] < rows["0.5"]["distance_alone"]
    assert rows["0.5"]["precision_real"] > rows["0.5"]["precision_alone"] == 0
    assert rows["1.0"]["recall_guided"] == 0
    assert "seconds_alone" in rows["64.0"]
    assert "seconds_guided" not in rows["64.0"]  # its guide would have 128 µm/px, the model knows up to 64


def staining(stainer: Path) -> list[object]:
    return ["--size", 256, "--patch", 128, "--stainer", stainer]


def test_normalisers(run: Run, stainer: Path, slides: Path) -> None:
    argv = ["--kernels", 3, "--granularities", 1, 8, "--ihc", slides]
    rows = run(normalisers, "how norm", *staining(stainer), *argv)
    ours = {"in", "tin", "kin-constant-3", "kin-gaussian-3", "kin-inf", "dn", "dn-8"}
    theirs = {"in", "tin", "kin-constant-3", "dn", "dn-paper"}
    source = rows.pop("not translated H&E")
    assert {"step8", "z", "jump"} <= set(source)
    assert {f"as built {n}" for n in ours} | {f"as published {n}" for n in theirs} == set(rows)
    assert all(rows[f"as built {norm}"]["tiling"] == 0 for norm in ours - {"in"})
    assert all(row["niqe"] > 0 for row in rows.values())
    assert rows["as published in"]["hue"] == pytest.approx(1)
    assert rows["as published dn"]["jump"] > 1.5 * rows["as built dn"]["jump"]


def test_interpolation(run: Run) -> None:
    rows = run(interpolation, "patch way", "--sizes", 16, 32, "--width", 4, "--repeats", 1)
    assert set(rows) == {f"{side} {way}" for side in (16, 32) for way in interpolation.WAYS}
    assert all(row["difference"] < 1e-5 for row in rows.values())
    assert rows["32 matrix product"]["temporary"] == pytest.approx(
        4 * 32**2 * (9 + 2 * 8) / 2**20, rel=1e-4
    )  # twice the width, before the blur halves the resolution
    assert rows["32 pixel by pixel"]["seconds"] > rows["32 weights precomputed"]["seconds"]


def test_interpolation_of_a_ramp_by_hand() -> None:
    # a patch of two pixels a side; nodes 0, 1, 2 along rows, everywhere the same along columns
    (layer,) = interpolation.layers(torch.nn.InstanceNorm2d(3), 2, CPU)
    ramp = torch.arange(3.0)[:, None, None].expand(3, 3, 1)
    ones = torch.ones(3, 3, 1)
    layer = interpolation.Layer(torch.zeros(1, 2, 2), ramp, ones, layer.at, 1)
    wanted = torch.tensor([[[-0.75, -0.75], [-1.25, -1.25]]])  # a quarter of a patch off its centre
    weights = interpolation.node_weights(layer)
    torch.testing.assert_close(interpolation.matrix_product(layer, weights), wanted)
    torch.testing.assert_close(interpolation.built(layer, interpolation.Places([(layer.at,) * 2])), wanted)


@pytest.mark.slow
def test_memory(run: Run, stainer: Path) -> None:
    rows = run(memory, "norm size", "--sizes", 256, "--patch", 128, "--stainer", stainer)
    assert set(rows) == {f"{norm} 256" for norm in (memory.WHOLE, *memory.NORMS)}
    assert rows["in 256"]["over_in"] == 1
    assert rows["in 256"]["seconds_per_megapixel"] == pytest.approx(
        rows["in 256"]["seconds"] * 1e6 / 256**2, rel=1e-4
    )


def test_memory_that_is_taken_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = memory.resident_bytes()
    taken = np.ones(64 << 20, np.uint8)
    assert 60 << 20 < memory.peak_bytes() - before < 100 << 20
    del taken
    assert memory.peak_bytes() - before > 60 << 20  # it is gone, and still the most that there was


def test_domains(run: Run, stainer: Path, slides: Path, tmp_path: Path) -> None:
    (tmp_path / "ihc").mkdir()
    for seed in (5, 6):
        brown = (he_image(512, seed) * np.array([0.9, 0.7, 0.4])).astype(np.uint8)
        write_tiff(tmp_path / "ihc" / f"case{seed}_SYN.tif", brown, 0.5)
    argv = ["--source", slides, "--target", tmp_path / "ihc", "--pictures", 1, "--patch", 128]
    rows = run(
        domains, "how norm", *argv, "--size", 256, "--stainer", stainer, "--crops", 60, "--updates", 40
    )
    norms = [f"{how} {norm}" for how in ("as published", "as built") for norm in domains.PUBLISHED]
    assert list(rows) == ["not translated H&E", *norms, "real IHC"]
    assert rows["not translated H&E"]["over"] < 0.2
    assert rows["real IHC"]["inside"] > 0.8
    assert rows["as published in"]["step8"] > rows["as built dn"]["step8"]
    with pytest.raises(InvalidValueError, match="fits into every slide"):
        domains.main([*map(str, argv), "--size", "1024"])


def test_thumbnails(run: Run, stainer: Path) -> None:
    rows = run(thumbnails, "side", *staining(stainer), "--sides", 64, 128)
    assert [rows[s]["mpp"] for s in ("64", "128", "256")] == [2, 1, 0.5]
    assert (rows["256"]["mean_off"], rows["256"]["std_off"], rows["256"]["apart"]) == (0, 1, 0)
    assert rows["64"]["std_off"] > 1
    assert rows["64"]["apart"] > 0


def test_distance(run: Run, stainer: Path, tmp_path: Path) -> None:
    fading = texture(512) * np.linspace(0.4, 1, 512)[:, None]  # from left to right
    slide = write_tiff(tmp_path / "slide.tif", fading.astype(np.uint8), 0.5, compression="zstd")
    argv = ["--size", 512, "--patch", 64, "--stainer", stainer, "--slide", slide]
    rows = list(run(distance, "distance", *argv).values())
    assert [round(r["distance"]) for r in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["um"] == pytest.approx(rows[0]["distance"] * 64 * 0.5, rel=1e-4)
    assert rows[0]["similarity"] > 0.1 > -0.1 > rows[-1]["similarity"]


def test_similarity_of_a_ramp_is_what_hand_calculation_gives() -> None:
    # four patches in a row with means 0, 1, 2, 3: standardised ±3/√5, ±1/√5
    ramp = torch.arange(4.0)[:, None]
    stats = [LayerStats(ramp, torch.ones(4, 1))] * 6
    rows = distance.by_distance(np.array([[0, i] for i in range(4)]), stats)
    products = {1: (3 - 1 + 3) / 3 / 5, 2: (-3 - 3) / 2 / 5, 3: -9 / 5}
    assert [row["pairs"] for row in rows] == [3, 2, 1]
    for row in rows:
        assert row["mean"] == pytest.approx(products[round(row["distance"])])
        assert row["std"] == 0
        assert row["similarity"] == row["down"] == pytest.approx(row["mean"] / 2)


def test_statistics_off_by_known_amounts() -> None:
    exact = [LayerStats(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 4.0]]))]
    other = [LayerStats(torch.tensor([[1.5, 2.0]]), torch.tensor([[1.0, 8.0]]))]
    mean, factor = thumbnails.off(other, exact)
    assert mean == pytest.approx((0.5 * 2 + 0) / 2)
    assert factor == pytest.approx(2)
    assert thumbnails.off(exact, exact) == (0, 1)


def test_blocks_show_a_guide_that_was_only_replicated() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert blocks(noise, 2) == pytest.approx(1, abs=0.05)
    assert blocks(noise.repeat(2, 0).repeat(2, 1), 2) > 1.5


def test_a_picture_beside_itself_lost_nothing_and_a_planted_seam_shows() -> None:
    image = texture(256)
    same = compared(image, image, 128)
    assert (same["hue"], same["contrast"]) == (pytest.approx(1), pytest.approx(1))
    seamed = image.copy()
    seamed[128:] = np.clip(seamed[128:].astype(int) - 30, 0, 255)
    assert compared(seamed, image, 128)["step8"] > 1.5 * same["step8"]
    flat = np.full_like(image, 128)
    assert compared((image // 2 + flat // 2), image, 128)["contrast"] == pytest.approx(0.5, abs=0.02)


def test_thumbnails_are_means_of_areas() -> None:
    image = texture(256)
    assert np.array_equal(reduced(image, 512), image)
    small = reduced(image, 64)
    assert small.shape == (64, 64, 3)
    exact = image.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - exact).max() <= 0.51
    assert reduced(image[:128], 64).shape == (32, 64, 3)


def test_places_are_on_tissue(he_picture: np.ndarray) -> None:
    image = np.full((512, 512, 3), 243, np.uint8)
    image[:256] = he_picture[384:640, 256:768]
    places = tissue_places(image, 0.5, patch_um=64, stride_um=64)
    assert places == [(y, x) for y in (0.0, 64.0) for x in (0.0, 64.0, 128.0, 192.0)]
    patches = cut(image, 0.5, places, 128)
    assert np.array_equal(patches[5], image[128:256, 128:256])
    with pytest.raises(InvalidValueError, match="larger than the slide"):
        tissue_places(image, 0.5, patch_um=300, stride_um=64)


def test_real_pictures_are_nearer_than_blurred_ones(slides: Path) -> None:
    args = options(None).parse_args([])
    args.real, args.table, args.features = str(slides), None, "weight-free"
    real = RealSlides.of(args)
    assert real
    judge = real.judge(mpp=0.5, patch=64, count=24)
    assert judge
    patches = real.pictures(mpp=0.5, size=64, count=24)
    blurred = [reduced(p, 16).repeat(4, 0).repeat(4, 1) for p in patches]
    assert judge.distance(patches)["distance"] < judge.distance(blurred)["distance"]
    assert judge.spectrum(patches)[:4] == pytest.approx(1, rel=0.3)
    same, other = judge.precision_recall(patches), judge.precision_recall(blurred)
    assert min(same["precision"], same["recall"]) > 0.7
    assert max(other["precision"], other["recall"]) < 0.5
    assert judge.spectrum(blurred)[0] < 0.5
    args.real = "nowhere"
    with pytest.raises(InvalidValueError, match="nowhere"):
        real_paths(args)


def test_tables_leave_out_what_nobody_has_and_dash_what_one_lacks() -> None:
    columns = (Column("a", "name"), Column("b", "b", ".1f"), Column("c", "c"), Column("n", "n", ",d"))
    rows = [{"a": "x", "b": 1.25, "n": 12345}, {"a": "y", "b": float("nan"), "n": 1}]
    assert table(columns, rows).splitlines() == [
        "| name | b | n |",
        "|---|---|---|",
        "| x | 1.2 | 12,345 |",
        "| y | – | 1 |",
    ]


def test_the_environment_names_machine_and_version() -> None:
    assert torch.__version__ in environment(CPU)
    assert "float32" in environment(CPU)


def test_sheets_keep_pixels_and_have_a_limit(tmp_path: Path) -> None:
    crop = np.zeros((40, 50, 3), np.uint8)
    crop[:, 25:] = (200, 10, 60)
    draw_sheet({"": {"one": crop, "two": crop}}, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        found = np.asarray(sheet.convert("RGB"))
    assert np.array_equal(found[-40:, :50], crop)
    assert np.array_equal(found[-40:, 56:106], crop)
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)
    draw_sheet({"": {"noise": noise}}, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size <= LARGEST
    with Image.open(tmp_path / "noise.png") as halved:
        assert halved.width == 303  # and its gap
