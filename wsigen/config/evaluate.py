"""Options of ``wsigen evaluate``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsigen.config.check import as_list, check, check_mpp

GENERATED, REAL, TRAIN = "generated", "real", "train"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Options of one evaluation.

    Slides are folders, slides, or patterns such as "slides/*_HE.ome.tif", one or several; a PNG counts as a
    slide, so that folders of patches can be compared.

    Args:
        real: real slides to compare with.
        generated: slides to judge.
        compare: more sets of slides to judge against the same real ones, each as NAME=PATHS, such as
            fast=slides/fast paper=slides/paper; without NAME= a set is named after its folder. Slides with
            the name and size of one in the first set are compared with it pixel by pixel.
        train: slides that the model learnt from, for copies, copying and membership; none of them may be in
            real.
        pairs: IHC slides of the generated H&E slides: a_SYN.ome.tif belongs to a_HE.ome.tif.
        real_pairs: real slides of the same IHC stain, as the reference for pairs.
        table: CSV with columns slide, and optionally mpp, group, split; of the real slides and of train.
        generated_mpp: µm/px of slides to judge, and of pairs, whose files do not state it, such as PNG.
        real_mpp: µm/px of real slides, and of train, for which neither the file nor the table states it.
        mpp: µm/px to compare at.
        patch: side of the patches, px.
        patches: number of patches per set, divided between the values of mpp.
        stain: "he", or "ihc" where all slides are IHC: the second stain to unmix is eosin or DAB.
        features: weight-free, inception, inception:PATH, timm:NAME or transformers:NAME.
        joint_classifiers: updates of small networks that look for seams and judge IHC slides, such as 400; 0
            for none, since each takes about a minute on a core.
        out: folder for index.html and report.json.
        seed: random seed of patch positions and of random halves.
        device: "auto", "cpu", "cuda", "cuda:1": where networks of features run.
        workers: threads that read and describe patches; 0 for one per core.
        overwrite: replace an existing report.
        dry_run: print how many patches each slide would give at each µm/px, and stop.
    """

    real: list[str] | str
    generated: list[str] | str | None = None
    compare: list[str] | str | None = None
    train: list[str] | str | None = None
    pairs: list[str] | str | None = None
    real_pairs: list[str] | str | None = None
    table: Path | None = None
    generated_mpp: float | None = None
    real_mpp: float | None = None
    mpp: list[float] | float | str = "0.5,1,4,16"
    patch: int = 512
    patches: int = 2000
    stain: Literal["he", "ihc"] = "he"
    features: str = "weight-free"
    joint_classifiers: int = 0
    out: Path = Path("report")
    seed: int = 0
    device: str = "auto"
    workers: int = 0
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check(bool(self.real), "--real", repr(self.real), "slides")
        some = bool(self.generated) or bool(self.compare)
        check(some, "--generated", self.generated, "slides to judge (or give --compare NAME=PATHS)")
        check(self.real_pairs is None or bool(self.pairs), "--pairs", self.pairs, "given with --real-pairs")
        check(self.pairs is None or bool(self.generated), "--generated", None, "given with --pairs")
        check_mpp(self.generated_mpp, "--generated-mpp")
        check_mpp(self.real_mpp, "--real-mpp")
        check(self.patch >= 64, "--patch", self.patch, ">= 64 px")
        check(self.patches >= 16, "--patches", self.patches, ">= 16")
        check(0 <= self.seed < 2**63, "--seed", self.seed, "between 0 and 2**63")
        check(self.joint_classifiers >= 0, "--joint-classifiers", self.joint_classifiers, ">= 0")
        check(self.workers >= 0, "--workers", self.workers, ">= 0")
        _ = self.scales, self.sets  # raise where a value cannot be

    @property
    def scales(self) -> tuple[float, ...]:
        """The values of ``mpp``, finest first."""
        given = self.mpp if isinstance(self.mpp, list) else str(self.mpp).split(",")
        try:
            scales = sorted({float(value) for value in given})
        except ValueError:
            scales = []
        fine = bool(scales) and all(0 < m < math.inf for m in scales)
        check(fine, "--mpp", self.mpp, "positive numbers of µm/px such as 0.5,1,4,16")
        return tuple(scales)

    @property
    def sets(self) -> dict[str, list[str]]:
        """The sets to judge: name to paths; ``generated`` first."""
        found = {GENERATED: as_list(self.generated)} if self.generated else {}
        for item in as_list(self.compare):
            name, equals, path = item.partition("=")
            if not equals:
                name, path = (Path(item).name if Path(item).suffix == "" else Path(item).stem), item
            fine = bool(name) and bool(path) and name not in (REAL, TRAIN)
            check(fine, "--compare", repr(item), f"NAME=PATHS with a name that is not {REAL} or {TRAIN}")
            found.setdefault(name, []).append(path)
        return found
