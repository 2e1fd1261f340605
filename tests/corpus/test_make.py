"""A corpus is the same bytes however it is made, and says what it holds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import openslide
import pandas as pd
import pytest
import yaml
from PIL import Image

from wsigen.cli import main
from wsigen.corpus import engine, make
from wsigen.corpus.engine import LocalProcesses, Task
from wsigen.corpus.make import make_corpus
from wsigen.corpus.manifest import COLUMNS, read_manifest, verify
from wsigen.corpus.plan import plan_corpus
from wsigen.corpus.slides import measure
from wsigen.errors import InvalidValueError, OutputError, SlideError
from wsigen.slide.levels import FileSlide
from wsigen.slide.read import open_slide
from wsigen.slide.stains import stain_densities


def contents(folder):
    """All files of a corpus but those that name their own folder or count."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_corpus_explains_itself(corpus):
    table = read_manifest(corpus)
    assert list(table.columns) == list(COLUMNS)
    assert table.name.tolist() == [f"synthetic-{seed}" for seed in range(4)]
    assert table.split.tolist() == ["train", "val", "train", "val"]
    assert (table.mpp == 0.5).all()
    for row in table.to_dict("records"):
        with openslide.OpenSlide(corpus / row["he"]) as slide:
            assert slide.dimensions == (row["width"], row["height"]) == (128, 128)
        facts = json.loads((corpus / row["he"].replace(".ome.tif", ".json")).read_text())
        assert facts["seed"] == row["seed"]
        assert facts["model_hash"] == row["model_hash"]
        assert [path.split("_IHC-")[1] for path in row["ihc"]] == ["SYN.ome.tif"]
        assert row["tissue_share"] == pytest.approx(row["tissue_mm2"] / (64e-3**2), abs=0.02)
    card = (corpus / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["configs"] == [{"config_name": "slides", "data_files": "manifest.parquet"}]
    assert "**Synthetic. No slide shows a patient; not for diagnosis.** 4 H&E slides" in card
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=corpus, check=False)
    assert done.returncode == 0
    assert verify(corpus) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a library that mlcroissant uses
def test_croissant_lists_the_manifest(corpus):
    mlc = pytest.importorskip("mlcroissant")
    dataset = mlc.Dataset(jsonld=json.loads((corpus / "croissant.json").read_text()))
    assert not dataset.metadata.ctx.issues.errors
    (records,) = dataset.metadata.record_sets
    assert [field.source.extract.column for field in records.fields] == list(COLUMNS)


@pytest.mark.slow
def test_several_processes_make_the_same_bytes(corpus, options, tmp_path):
    out = make_corpus(options(tmp_path / "four", workers=2))
    assert contents(out) == contents(corpus)


def test_shards_and_growth_make_the_same_bytes(corpus, options, tmp_path):
    out = tmp_path / "four"
    make_corpus(options(out, count=2))
    assert len(read_manifest(out)) == 2
    make_corpus(options(out, shard="2/2"))
    assert read_manifest(out).name.tolist() == ["synthetic-0", "synthetic-1", "synthetic-3"]
    assert verify(out) == ["manifest.parquet lists 3 of 4 slides; make the rest"]
    make_corpus(options(out, shard="1/2"))
    assert contents(out) == contents(corpus)


def test_a_slide_whose_files_are_gone_is_made_again(corpus, options, tmp_path):
    out = tmp_path / "four"
    shutil.copytree(corpus, out)
    (out / "slides" / "synthetic-2_HE.ome.tif").unlink()
    (out / "slides" / "synthetic-2_IHC-SYN.ome.tif").unlink()
    make_corpus(options(out))
    assert contents(out) == contents(corpus)


class DyingTask(Task):
    """A task whose worker is killed, the first time."""

    def __call__(self):
        mark = self.folder / "died"
        if self.item.name == "synthetic-1" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(corpus, options, tmp_path, caplog):
    out = tmp_path / "four"

    def dying(tasks):
        return LocalProcesses(workers=2)([DyingTask(**vars(task)) for task in tasks])

    make_corpus(options(out), dying)
    assert "a worker died; its slide is continued" in caplog.text
    (out / "died").unlink()
    assert contents(out) == contents(corpus)


class HopelessTask(Task):
    """A task that no worker survives."""

    def __call__(self):
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.slow
def test_workers_that_keep_dying_are_an_error(options, tmp_path, monkeypatch):
    def hopeless(tasks):
        return LocalProcesses(workers=1)([HopelessTask(**vars(task)) for task in tasks])

    monkeypatch.setattr(engine, "RETRIES", 1)
    with pytest.raises(InvalidValueError, match=r"workers died 2 times in a row .* synthetic-0"):
        make_corpus(options(tmp_path / "four"), hopeless)


def test_a_killed_command_continues_to_the_same_bytes(corpus, small_models, tmp_path):
    out = tmp_path / "four"
    flags = [f"--{key}={value}" for key, value in small_models.items()]
    flags += ["--count=4", "--size=128", "--stages=2", "--split=train=0.5,val=0.5", "--dtype=float32"]
    flags += ["--device=cpu", "--workers=1", f"--out={out}"]
    code = f"""
import os, signal
from wsigen.corpus import slides
made = []
def measure(*args, original=slides.measure):
    made.append(1)
    if len(made) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
slides.measure = measure
from wsigen.cli.main import main
main(["corpus", "make", *{flags!r}])
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-500:]
    assert (out / "slides" / "synthetic-1_HE.ome.tif").is_file()  # whole, though not in the manifest yet
    main.main(["corpus", "make", *flags])
    assert contents(out) == contents(corpus)


def test_another_corpus_in_the_folder_is_refused(corpus, options):
    before = contents(corpus)
    with pytest.raises(InvalidValueError, match=r"made otherwise: --mpp was 0\.5, now 0\.6; pass its values"):
        make_corpus(options(corpus, mpp=0.6))
    with pytest.raises(InvalidValueError, match="--count must be at least that of the corpus"):
        make_corpus(options(corpus, count=2))
    assert contents(corpus) == before


def test_other_weights_are_refused(corpus, options, tmp_path):
    out = tmp_path / "four"
    shutil.copytree(corpus, out)
    facts = json.loads((out / "corpus.json").read_text())
    facts["weights"]["model"] = "0" * 64
    (out / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(InvalidValueError, match="was made with other weights of model; use those"):
        make_corpus(options(out))


def test_a_corpus_is_made_again_from_its_configuration(corpus, tmp_path):
    out = tmp_path / "again"
    flags = ["--config", str(corpus / "corpus.yaml"), f"--out={out}", "--workers=1", "--device=cpu"]
    main.main(["corpus", "make", *flags])
    assert contents(out) == contents(corpus)


def test_damage_is_named(corpus, tmp_path, capsys):
    out = tmp_path / "four"
    shutil.copytree(corpus, out)
    path = out / "slides" / "synthetic-1_IHC-SYN.ome.tif"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (out / "slides" / "synthetic-2_HE.jpg").unlink()
    shutil.copy(out / "slides" / "synthetic-0_HE.ome.tif", out / "slides" / "other_HE.ome.tif")
    assert verify(out) == [
        "slides/synthetic-1_IHC-SYN.ome.tif differs from its checksum",
        "slides/synthetic-2_HE.jpg is missing",
        "slides/other_HE.ome.tif is not in the manifest",
    ]
    with pytest.raises(SystemExit):
        main.main(["corpus", "verify", str(out)])
    assert "synthetic-1_IHC-SYN.ome.tif differs" in capsys.readouterr().err
    main.main(["corpus", "verify", str(corpus)])
    assert "every file is as it was made" in capsys.readouterr().out


def test_folders_that_are_no_corpus_or_of_another_version_are_refused(corpus, tmp_path):
    with pytest.raises(SlideError, match=r"is no corpus: corpus.json cannot be read"):
        verify(tmp_path)
    facts = json.loads((corpus / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps({**facts, "version": 9}))
    with pytest.raises(InvalidValueError, match="is of version 9, this wsigen reads version 1"):
        verify(tmp_path)


def test_a_full_disk_names_the_fix_and_keeps_what_is_finished(options, small_disk):
    with pytest.raises(OutputError, match="make room"):
        make_corpus(options(small_disk / "four"))


def test_a_plan_states_slides_splits_disk_and_time(options, tmp_path):
    text = make.describe(options(tmp_path / "plan", count=8, size="128,256"))
    items = plan_corpus(options(tmp_path / "plan", count=8, size="128,256"))
    megapixels = sum(int(item.config.size) ** 2 for item in items) / 1e6
    assert f"slides      8 H&E, 8 IHC, {megapixels:.1f} megapixels of each stain" in text
    assert "splits      train 4, val 4" in text
    assert "device hours" in text
    assert not (tmp_path / "plan").exists()


def test_seeds_alone_are_a_corpus_too(corpus, options, tmp_path):
    out = make_corpus(options(tmp_path / "seeds", materialise="none"))
    assert not (out / "slides").exists()
    seeds, files = read_manifest(out), read_manifest(corpus)
    assert seeds.seed.tolist() == files.seed.tolist()
    assert seeds.tissue_mm2.tolist() == pytest.approx(files.tissue_mm2.tolist(), rel=0.2)
    assert verify(out) == []


@pytest.mark.slow
def test_ray_makes_the_same_bytes(corpus, options, tmp_path):
    pytest.importorskip("ray")
    out = make_corpus(options(tmp_path / "four", engine="ray", workers=2))
    assert contents(out) == contents(corpus)


class LostTask(Task):
    """A task that waits for its machine to be lost, the first time."""

    def __call__(self):
        mark = self.folder / "lost"
        if self.item.name == "synthetic-1" and not mark.exists():
            import ray

            mark.write_text(ray.get_runtime_context().get_node_id())
            time.sleep(600)
        return super().__call__()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_machine_of_a_cluster_may_be_lost(corpus, options, tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    out = tmp_path / "four"
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}

    def lose() -> None:
        while not (out / "lost").exists() or not (out / "lost").read_text():
            time.sleep(0.1)
        cluster.remove_node(nodes[(out / "lost").read_text()], allow_graceful=False)

    def engine(tasks):
        return make.choose_engine(config, len(tasks))([LostTask(**vars(task)) for task in tasks])

    config = options(out, engine="ray", address=cluster.address)
    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    try:
        make_corpus(config, engine)
        thread.join(60)
        assert len(cluster.worker_nodes) == 1
    finally:
        cluster.shutdown()
    (out / "lost").unlink()
    assert contents(out) == contents(corpus)


def test_a_cluster_that_cannot_be_reached_is_named(options, tmp_path):
    pytest.importorskip("ray")
    config = options(tmp_path / "four", engine="ray", address="127.0.0.1:1")
    with pytest.raises(InvalidValueError, match=r"--address 127\.0\.0\.1:1: no Ray cluster can be reached"):
        make_corpus(config)
    assert len(pd.read_parquet(tmp_path / "four" / "manifest.parquet")) == 0


def test_a_missing_engine_names_what_to_install(options, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidValueError, match=r"pip install 'wsigen\[ray\]'"):
        make_corpus(options(tmp_path / "four", engine="ray"))


def test_actions_are_named(capsys):
    with pytest.raises(SystemExit):
        main.main(["corpus", "mend"])
    assert "no action 'mend'; use one of make, verify, label, export" in capsys.readouterr().err


def test_measures_of_a_known_picture(tmp_path):
    picture = np.full((512, 1024, 3), 243, np.uint8)
    picture[:, :512] = (150, 80, 160)
    Image.fromarray(picture).save(tmp_path / "he.png")
    slide = FileSlide(open_slide(tmp_path / "he.png", 1.0))
    found = measure(slide, [slide])
    assert found["tissue_mm2"] == pytest.approx(0.512**2, rel=0.03)
    assert found["tissue_share"] == pytest.approx(0.5, abs=0.02)
    densities = stain_densities(picture[:1, :1], stains="h-e")[0, 0]
    assert [found["haematoxylin"], found["eosin"]] == pytest.approx(densities[:2].tolist(), rel=0.02)
    assert found["dab"] == pytest.approx(
        [stain_densities(picture[:1, :1], stains="h-dab")[0, 0, 2]], rel=0.02
    )
