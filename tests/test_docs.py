"""Figures in the docs that can be computed are computed again."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.evaluation.report.reports import report
from wsigen.diffusion.schedule import karras_sigmas
from wsigen.diffusion.solvers import SOLVERS
from wsigen.evaluation import (
    comparison,
    copies,
    descriptor,
    inputs,
    patches,
    search,
    sets,
    spots,
    verdict,
    windows,
)
from wsigen.evaluation.results import SCHEMA
from wsigen.evaluation.topics import METRICS
from wsigen.geometry import Size
from wsigen.sampling.noise import BLOCK_HEIGHT, BLOCK_WIDTH
from wsigen.sampling.shift import SHIFTS, ShiftPlan
from wsigen.sampling.wavefront import ORDERS, rows_alive
from wsigen.slide.write import LAYOUTS

DOCS = ROOT / "docs"
PATCH, WIDTH = 512, 65536


def _rows(page: str, head: str) -> list[list[str]]:
    text = (DOCS / page).read_text(encoding="utf-8")
    table = text[text.index(head) :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("row", _rows("memory.md", "| steps N |"), ids=lambda row: "-".join(row[:3]))
def test_rows_alive(row: list[str]) -> None:
    steps, mode, delta, rows, canvas, whole = row
    plan = ShiftPlan(mode=mode, drift=int(delta or 0) / PATCH)
    grids = plan.grids(
        seed=0, stage=7, steps=int(steps), canvas=Size.square(WIDTH), patch=Size.square(PATCH), k=2
    )
    alive = rows_alive([grid.rows for grid in grids])
    assert int(rows) == alive
    if delta:
        assert alive == (int(steps) - 1) * int(delta) + PATCH
    assert canvas == f"{alive * WIDTH * 12 / 1e9:.1f} GB"
    assert whole == f"{WIDTH**2 * 12 / 1e9:.1f} GB"


def test_relax_step_28_is_the_noise_level_that_is_stated() -> None:
    assert round(karras_sigmas(40)[28], 3) == 0.256
    assert "σ > 0.256" in (DOCS / "method.md").read_text(encoding="utf-8")


def test_every_choice_is_explained() -> None:
    method = (DOCS / "method.md").read_text(encoding="utf-8")
    formats = (DOCS / "formats.md").read_text(encoding="utf-8")
    for name in (*SOLVERS, *SHIFTS, *ORDERS):
        assert f"`{name}`" in method, name
    for layout in LAYOUTS:
        assert f"`{layout}`" in formats, layout
    assert f"{BLOCK_HEIGHT}×{BLOCK_WIDTH} pixels" in method


def test_evaluations_of_the_solver_table() -> None:
    formulas = {"2N − 1": lambda n: 2 * n - 1, "N": lambda n: n}
    for name, _, evaluations, _ in _rows("method.md", "| name | order |"):
        formula = formulas[re.split(r" \(", evaluations)[0]]
        solver = SOLVERS[name.strip("`")]
        assert [solver.evaluations(n) for n in (1, 9, 40)] == [formula(n) for n in (1, 9, 40)]


EVALUATION = (DOCS / "evaluation.md").read_text(encoding="utf-8")


def test_every_measure_is_explained() -> None:
    patterns = set(re.findall(r"`([a-z0-9_]+\*?)`", EVALUATION)) - {"*"}
    assert [key for key in METRICS if not any(fnmatch(key, p) for p in patterns)] == []


def test_numbers_of_an_evaluation_are_those_of_the_code() -> None:
    for words in (
        f"| `weight-free` (default) | {descriptor.WeightFree.dimensions} numbers:",
        f"of up to {spots.ATTEMPTS} tries",
        f"no room for {sets.FEWEST} patches",
        f"Of {patches.SAMPLES} patches a set",
        f"at most {windows.MOST_SLIDES} slides a set",
        f"mean of up to {comparison.SPLITS} splits",
        f"within {verdict.DECISIVE:g} half-widths of the floor",
        f"`relief` {METRICS['relief'].bad}",
        f"the middle {patches.PHASE_PX} px of larger patches",
        f"nearer than {copies.COPY_DISTANCE}, *and* than {copies.COPY_SHARE} × the distance",
        f"{inputs.MIN_GROUPS} on",
        f"{search.BUDGET:.0e}".replace("1e+10", "10¹⁰ comparisons"),
        f"for unrelated real patches, of which {search.MOST_UNRELATED} suffice",
        f"{search.BUDGET / search.FEWEST_QUERIES / 2500**2:.0f} are searched at 0.5 µm/px, "
        f"for {search.FEWEST_QUERIES // 2} patches",
        f"`{SCHEMA}`",
    ):
        assert words in re.sub(r"\s+", " ", EVALUATION), words


def test_report_is_read_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", EVALUATION, re.MULTILINE | re.DOTALL)
    keys = set(re.findall(r"`([a-z_]+)`", "\n".join(r[0] for r in _rows("evaluation.md", "| key | holds |"))))
    values = report().as_dict()
    assert keys == set(values)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(json.dumps(values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="good holds copies"):  # its value is 0.55
        exec(compile(code, "evaluation.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("good ") for line in lines)
    assert float(lines[0].rsplit(" ", 1)[1]) == pytest.approx(0.5)
