"""The privacy gate finds copies of training places, and what it decides does not depend on interruptions."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.synthetic import he_image, write_tiff
from wsigen.cli import main
from wsigen.corpus import gate as gate_module
from wsigen.corpus import make
from wsigen.corpus.dataset import Corpus
from wsigen.corpus.engine import LocalProcesses, in_process
from wsigen.corpus.gate import Finding, Gate, Scale, open_gate
from wsigen.corpus.make import make_corpus
from wsigen.corpus.manifest import read_manifest, verify
from wsigen.errors import InvalidValueError, SlideError
from wsigen.evaluation.search import SearchArea
from wsigen.sampling.shift import uniform_integer
from wsigen.slide.levels import FileSlide
from wsigen.slide.read import open_slide

UM = 128.0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Path:
    """Three cases of 256² at 2 µm/px."""
    folder = tmp_path_factory.mktemp("training")
    for seed in range(3):
        write_tiff(folder / f"s{seed}.tif", he_image(256, seed, mpp=2.0), 2.0, compression="zstd")
    return folder


@pytest.fixture(scope="module")
def overviews(tmp_path_factory) -> Path:
    """The first training slide, and a picture of another case."""
    folder = tmp_path_factory.mktemp("overviews")
    for seed in (0, 9):
        Image.fromarray(he_image(256, seed, mpp=2.0)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def gated(options, training, overviews):
    """Corpora of two slides, of which one is an enlarged training slide."""

    def configure(out: Path, **values: object):
        small = {"count": 2, "size": None, "stages": None, "mpp": 1.0, "stain": None}
        start = {"overview": [str(overviews)], "overview_mpp": 2.0}
        gate = {"gate": "refuse", "gate_slides": [str(training)], "gate_um": UM}
        return options(out, **{**small, **start, **gate, **values})

    return configure


@pytest.fixture(scope="module")
def refused(gated, tmp_path_factory) -> Path:
    return make_corpus(gated(tmp_path_factory.mktemp("refused") / "two"))


def turned(path: Path, image: np.ndarray) -> FileSlide:
    """The picture mirrored, a quarter turned, darker and more contrasted."""
    changed = np.rot90(image[:, ::-1]).astype(float)
    Image.fromarray(np.clip(changed * 1.2 - 60, 0, 255).astype(np.uint8)).save(path)
    return FileSlide(open_slide(path, 2.0))


def test_a_copy_is_found_turned_and_recoloured_and_other_tissue_is_not(gated, tmp_path):
    gate = open_gate(gated(tmp_path))
    (scale,) = gate.scales
    assert (scale.um, scale.area.cell_mpp, len(scale.area.entries)) == (UM, 4.0, 3)
    assert scale.limit == pytest.approx(min(0.3, 0.6 * scale.unrelated))
    copy = gate.look(turned(tmp_path / "copy.png", he_image(256, 1, mpp=2.0)), 0)
    assert copy.copy
    assert copy.distance < 0.1
    assert copy.ratio == pytest.approx(copy.distance / scale.unrelated, abs=1e-3)
    assert "s1.tif" in copy.text
    other = gate.look(turned(tmp_path / "other.png", he_image(256, 7, mpp=2.0)), 0)
    assert not other.copy
    assert other.distance > scale.limit
    glass = gate.look(turned(tmp_path / "glass.png", he_image(256, 7, tissue=False, mpp=2.0)), 0)
    assert glass == Finding(squares=0, distance=None, ratio=None, copy=False, text="")
    few = replace(gate, squares=3).look(turned(tmp_path / "copy.png", he_image(256, 1, mpp=2.0)), 0)
    assert few.squares == 3


def test_a_refused_slide_is_left_out_and_stated(refused, gated):
    table = read_manifest(refused).set_index("overview")
    assert table.accepted.to_dict() == {"0.png": False, "9.png": True}
    assert table.draws.tolist() == [1, 1]
    copy, other = table.loc["0.png"], table.loc["9.png"]
    assert copy.nearest < 0.1 < 0.3 < other.nearest
    assert copy.nearest_ratio < 0.2 < 0.6 < other.nearest_ratio
    assert copy.squares > 0
    assert (copy.he, copy.bytes) == ("", 0)
    assert [p.name for p in (refused / "slides").glob("*.tif")] == [Path(other.he).name]
    assert list(Corpus(refused)) == [other["name"]]
    card = (refused / "README.md").read_text()
    assert "not for diagnosis.** 1 H&E slides" in card
    assert "| slides accepted | 1 of 2 |\n| slides refused | 1 |" in card
    assert f"| nearest distance of an accepted slide | {other.nearest:.3f} |" in card
    assert verify(refused) == []
    before = contents(refused)
    make_corpus(gated(refused), in_process)  # nothing is made again
    assert contents(refused) == before


def test_every_draw_refused_is_an_error_and_more_draws_continue(gated, tmp_path, monkeypatch):
    looked = []
    look = Gate.look
    monkeypatch.setattr(Gate, "look", lambda self, he, seed: looked.append(seed) or look(self, he, seed))
    with pytest.raises(
        InvalidValueError, match=r"synthetic-\d: the gate refused all 2 draws .* from s0\.tif"
    ):
        make_corpus(gated(tmp_path / "two", gate="redraw", gate_draws=2))
    copies = [seed for seed in looked if seed >= 2**62]
    assert len(copies) == 1
    looked.clear()
    with pytest.raises(InvalidValueError, match="the gate refused all 3 draws"):
        make_corpus(gated(tmp_path / "two", gate="redraw", gate_draws=3))
    assert len([seed for seed in looked if seed >= 2**62]) == 1
    assert copies[0] not in looked
    assert not (tmp_path / "two" / "slides" / "synthetic-0_HE.ome.tif").exists()


class OddRefused(Gate):
    """Refuses odd seeds of the plan, and the first draw after them."""

    def look(self, slide, seed):
        copy = seed % 2 == 1 if seed < 2**62 else seed == FIRST_AGAIN
        return Finding(squares=4, distance=0.1, ratio=0.2, copy=copy, text="a copy")


FIRST_AGAIN = 2**62 + uniform_integer(1, 0, 1, 4, 2**62)  # second draw of seed 1
AREA = Scale(um=32.0, area=SearchArea((), 1.0), unrelated=0.5, limit=0.3)


ODD = OddRefused(scales=(AREA,), squares=9, draws=5, redraw=True)


@pytest.fixture(scope="module")
def make_odd(options):
    """Makes corpora of two slides, of which the second passes with its third draw."""

    def make_one(out: Path, engine=None, **values: object) -> Path:
        given = {"count": 2, "gate": "redraw", "gate_um": 32.0, "gate_slides": ["slides"]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(make, "open_gate", lambda _: ODD)
            return make_corpus(options(out, **{**given, **values}), engine)

    return make_one


@pytest.fixture(scope="module")
def redrawn(make_odd, tmp_path_factory) -> Path:
    return make_odd(tmp_path_factory.mktemp("redrawn") / "two")


def test_a_redrawn_slide_has_another_seed_and_the_place_in_the_plan(redrawn, make_odd, corpus, tmp_path):
    table, plain = read_manifest(redrawn), read_manifest(corpus)[:2]
    assert table.name.tolist() == plain.name.tolist()
    assert table.split.tolist() == plain.split.tolist()
    assert table.draws.tolist() == [1, 3]
    assert table.seed[0] == 0
    assert table.seed[1] >= 2**62
    assert (table.sha256 == plain.sha256).tolist() == [True, False]
    facts = json.loads((redrawn / "slides" / "synthetic-1_HE.json").read_text())
    assert facts["seed"] == table.seed[1]
    assert verify(redrawn) == []
    assert not list((redrawn / ".rows").glob("*.refused"))
    out = shutil.copytree(redrawn, tmp_path / "two")
    (out / "slides" / "synthetic-1_HE.ome.tif").unlink()  # its IHC slide is of another draw than the first
    make_odd(out)
    assert contents(out) == contents(redrawn)


def test_seeds_alone_are_read_with_the_seed_that_passed(make_odd, redrawn, tmp_path):
    out = make_odd(tmp_path / "seeds", materialise="none")
    seed = read_manifest(redrawn).seed[1]
    assert repr(Corpus(out, device="cpu")["synthetic-1"].he).startswith(f"SyntheticSlide(seed={seed},")


@pytest.mark.slow
def test_several_processes_decide_alike(make_odd, redrawn, tmp_path):
    out = make_odd(tmp_path / "two", LocalProcesses(workers=2))
    assert contents(out) == contents(redrawn)


@pytest.mark.slow
def test_ray_workers_decide_alike(gated, refused, tmp_path):
    pytest.importorskip("ray")
    out = make_corpus(gated(tmp_path / "two", engine="ray", workers=2))
    assert contents(out) == contents(refused)


def test_killed_between_two_draws_it_continues_with_the_second(small_models, redrawn, tmp_path, monkeypatch):
    out = tmp_path / "two"
    flags = [f"--{key}={value}" for key, value in small_models.items()]
    flags += ["--count=2", "--size=128", "--stages=2", "--split=train=0.5,val=0.5", "--dtype=float32"]
    flags += ["--device=cpu", "--workers=1", "--gate=redraw", "--gate-um=32", "--gate-slides=slides"]
    code = f"""
import os, signal
from tests.corpus.test_gate import ODD
from wsigen.corpus import make, slides
make.open_gate = lambda _: ODD
def remove(output, original=slides._remove_files):
    original(output)
    state = output.out.parent / ".rows" / "synthetic-1.refused"
    if output.label == "HE" and output.seed == 1 and state.exists():
        os.kill(os.getpid(), signal.SIGKILL)  # the H&E is gone, its IHC slide is left
slides._remove_files = remove
from wsigen.cli.main import main
main(["corpus", "make", *{flags!r}, "--out={out}"])
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-500:]
    assert (out / "slides" / "synthetic-1_IHC-SYN.ome.tif").is_file()
    monkeypatch.setattr(make, "open_gate", lambda _: ODD)
    main.main(["corpus", "make", *flags, f"--out={out}"])
    differ = [name for name, data in contents(redrawn).items() if contents(out).get(name) != data]
    assert differ == []


def test_other_training_slides_or_limits_are_refused(refused, gated, training, tmp_path):
    copied = shutil.copytree(training, tmp_path / "moved")
    make_corpus(gated(refused, gate_slides=[str(copied)]))  # the same slides elsewhere
    make_corpus(gated(refused))
    (copied / "s2.tif").unlink()
    with pytest.raises(InvalidValueError, match="was made with other training slides of the gate; use those"):
        make_corpus(gated(refused, gate_slides=[str(copied)]))
    with pytest.raises(InvalidValueError, match=r"made otherwise: --gate_share was 0\.6, now 0\.5"):
        make_corpus(gated(refused, gate_share=0.5))


def test_the_index_of_the_run_that_trained_the_model_is_the_default(
    gated, training, small_models, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(small_models["model"], run / "snapshot")
    with pytest.raises(InvalidValueError, match=r"--gate-slides must be given: nothing says which slides"):
        open_gate(gated(tmp_path, model=str(run / "snapshot"), gate_slides=[]))
    main.main(["index", str(training), "--out", str(run / "index.parquet")])
    found = open_gate(gated(tmp_path, model=str(run / "snapshot"), gate_slides=[]))
    assert [entry.slide for entry in found.scales[0].area.entries] == ["s0.tif", "s1.tif", "s2.tif"]


def test_training_slides_that_cannot_be_compared_are_refused(gated, training, tmp_path, monkeypatch):
    with pytest.raises(SlideError, match="no such file or folder"):
        open_gate(gated(tmp_path, gate_slides=[str(tmp_path / "missing")]))
    with pytest.raises(InvalidValueError, match=r"pass slides of two cases at least, or smaller squares"):
        open_gate(gated(tmp_path, gate_slides=[str(training / "s0.tif")]))
    with pytest.raises(InvalidValueError, match=r"--gate-um must have a side of 32 to 512 µm for the slide"):
        make_corpus(gated(tmp_path / "two", gate_um="8,1024"))
    assert not (tmp_path / "two").exists()
    monkeypatch.setattr(gate_module, "LEAST_UNRELATED", 10**6)
    with pytest.raises(InvalidValueError, match=r"128 µm: \d+ squares of unrelated .*, 1000000 are"):
        open_gate(gated(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gate_distance": 0}, r"--gate-distance must be a distance in \(0, 2\], got 0"),
        ({"gate_share": -1.0}, r"--gate-share must be a positive number, got -1\.0"),
        ({"gate_um": "256,0"}, r"--gate-um must be positive numbers of µm .*, got '256,0'"),
        ({"gate_um": "wide"}, r"--gate-um must be positive numbers of µm .*, got 'wide'"),
        ({"gate_draws": 0}, r"--gate-draws must be >= 1, got 0"),
        ({"gate_squares": 0}, r"--gate-squares must be >= 1, got 0"),
        ({"gate": None}, r"--gate must be given with --gate-slides, got None"),
        ({"gate_slides": [], "gate_table": "a.csv"}, r"--gate-slides must be given with --gate-table"),
    ],
)
def test_values_out_of_range_are_named(gated, tmp_path, values, message):
    with pytest.raises(InvalidValueError, match=message):
        gated(tmp_path, **values)


def test_a_plan_states_the_limits(gated, tmp_path):
    text = make.describe(gated(tmp_path / "plan"))
    assert "gate        3 training slides; squares nearer than this are copies: 128 µm 0." in text
