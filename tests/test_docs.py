"""Figures in the docs that can be computed are computed again."""

from __future__ import annotations

import re

import pytest

from tests.commands import ROOT
from wsigen.diffusion.schedule import karras_sigmas
from wsigen.diffusion.solvers import SOLVERS
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
    grids = plan.grids(seed=0, stage=7, steps=int(steps), extent=WIDTH, patch=PATCH, k=2)
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
