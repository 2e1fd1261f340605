"""Whether samples follow their class: what the classifier finds where classes differ, and the page."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import classes
from tests.pipeline.models import small_net
from tests.sampling.upscalers import small_upscaler
from tests.synthetic import he_image, write_tiff
from wsigen.errors import InvalidValueError
from wsigen.nn.model import save_model

COLOURS = ((200, 40, 40), (40, 40, 200))


def coloured(numbers: list[int], side: int = 32) -> np.ndarray:
    """Patches of a colour for each class, with some noise."""
    rng = np.random.default_rng(0)
    flat = np.array([COLOURS[n] for n in numbers])[:, None, None]
    return np.clip(flat + rng.normal(0, 8, (len(numbers), side, side, 3)), 0, 255).astype(np.uint8)


def patches(numbers: list[int], labels: list[int], groups: list[str]) -> classes.Patches:
    return classes.Patches({32: coloured(numbers)}, np.array(labels, dtype=np.int64), np.array(groups))


def test_samples_of_the_right_class_count(tmp_path):
    numbers = [0] * 6 + [1] * 6
    real = patches(numbers, numbers, list("aabbccddeeff"))
    held_out = patches([0, 0], [0, 0], ["g", "g"])
    drawn = {
        None: patches([0, 0, 0, 1], [0, 0, 1, 1], ["samples"] * 4),
        1.0: patches([0, 0, 1, 0], [0, 0, 1, 1], ["samples"] * 4),
    }
    args = classes._parser().parse_args(["--slides", "x", "--mpp", "32", "--size", "32"])
    first, second, mean = classes.judge(real, held_out, drawn, 32, ("red", "blue"), args)
    assert (first["class"], first["mpp"], first["cases"]) == ("red", 32.0, 3)
    assert (first["other"], first["held_out"], first["w1"], first["none"]) == (100, 100, 100, 75)
    assert (second["other"], second["w1"], second["none"]) == (100, 50, 25)
    assert np.isnan(second["held_out"]), "no held-out case of this class"
    assert (mean["class"], mean["other"], mean["held_out"], mean["w1"]) == ("mean", 100, 100, 75)


def test_a_class_of_one_case_cannot_be_judged_by_case():
    real = patches([0, 1, 1], [0, 1, 1], ["a", "b", "c"])
    with pytest.raises(InvalidValueError, match="each class needs two training cases"):
        classes._least_cases(real)


def test_page_has_a_row_for_each_class_and_scale(tmp_path):
    lines = ["slide,class,split"]
    (tmp_path / "he").mkdir()
    for n, (label, split) in enumerate([("liver", ""), ("skin", "")] * 2 + [("skin", "val")]):
        write_tiff(tmp_path / "he" / f"{n}.tif", he_image(256, seed=n, mpp=2.0), 2.0)
        lines.append(f"{n}.tif,{label},{split}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    save_model(tmp_path / "model", denoiser=small_net(("liver", "skin")), upscaler=small_upscaler())
    model, out = tmp_path / "model", tmp_path / "out"
    flags = ["--slides", tmp_path / "he", "--table", tmp_path / "table.csv", "--model", model, "--upscaler"]
    flags += [model, "--mpp", 8, "--size", 16, "--stages", 1, "--patches", 4, "--samples", 1, "--out", out]
    result = classes.main([str(flag) for flag in [*flags, "--device", "cpu", "--dtype", "float32"]])
    rows = result["rows"]
    assert [(row["mpp"], row["class"]) for row in rows] == [
        (mpp, name) for mpp in (8.0, 4.0) for name in ("liver", "skin", "mean")
    ]
    assert [row["cases"] for row in rows[:3]] == [2, 2, 4]
    assert all(0 <= row[key] <= 100 for row in rows for key in ("other", "w1", "w2"))
    assert rows[0]["none"] + rows[1]["none"] == pytest.approx(100)
    page = (out / "classes.md").read_text()
    assert "chance 50" in page
    assert "| 8 | skin | 2 |" in page
    assert (out / "classes.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_model_without_classes_is_refused(tmp_path):
    save_model(tmp_path / "model", denoiser=small_net(), upscaler=small_upscaler())
    flags = ["--slides", "x", "--upscaler", str(tmp_path / "model"), "--device", "cpu"]
    with pytest.raises(InvalidValueError, match="has 0 classes, two are needed"):
        classes.main([*flags, "--model", str(tmp_path / "model")])
