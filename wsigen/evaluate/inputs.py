"""The slides of an evaluation, and how many patches of each are compared; nothing is measured yet."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsigen import __version__
from wsigen.config.evaluate import REAL, TRAIN, EvaluateConfig, as_list
from wsigen.data.survey import Failure
from wsigen.errors import OutputError, SlideError
from wsigen.evaluate.estimate import MIN_GROUPS
from wsigen.evaluate.plan import ScalePlan, plan_scales
from wsigen.evaluate.results import Share
from wsigen.evaluate.sets import SlideSet, load_set, refuse_common
from wsigen.slide.provenance import read_provenance

PAGE, VALUES = "index.html", "report.json"
_PACKAGES = ("numpy", "scipy", "torch", "torch-fidelity", "opencv-python-headless", "scikit-image")


@dataclass(frozen=True)
class Inputs:
    """What is compared.

    Attributes:
        config: what was asked for.
        sets: to be judged.
        real: to judge by.
        train: what the model learnt from; None if not given.
        twins: IHC twins of the set ``generated``; None if not given.
        real_twins: real slides of their stain.
        plans: by µm/px, finest first.
        warnings: about slides and µm/px.
    """

    config: EvaluateConfig
    sets: tuple[SlideSet, ...]
    real: SlideSet
    train: SlideSet | None
    twins: SlideSet | None
    real_twins: SlideSet | None
    plans: tuple[ScalePlan, ...]
    warnings: tuple[str, ...]

    @property
    def drawn(self) -> list[SlideSet]:
        """All sets that patches are drawn from, the real ones first."""
        return [self.real, *self.sets, *([self.train] if self.train else [])]

    def shares(self, one: SlideSet) -> tuple[Share, ...]:
        """How many patches each slide of a set gives."""
        return tuple(
            Share(
                e.slide,
                e.group,
                e.mpp,
                {f"{p.mpp:g}": n for p in self.plans if (n := p.allotted.get(one.name, {}).get(e.slide, 0))},
            )
            for e in one.entries
        )


def load_inputs(config: EvaluateConfig) -> Inputs:
    """Look at all slides, and decide what is drawn.

    Raises:
        SlideError: a set has no slide that can be used, or none of the stain, or a slide is both in real and
            in train.
        InvalidValueError: no µm/px at which all sides can be compared.
    """
    real = load_set(REAL, config.real, config.table)
    sets = tuple(of_stain(load_set(name, paths), config.stain) for name, paths in config.sets.items())
    train = load_set(TRAIN, as_list(config.train), config.table) if config.train else None
    if train:
        refuse_common(train, real, "membership cannot be told from held-out slides that were trained on")
    plans, warnings = plan_scales(
        sets, real, train, scales=config.scales, patch=config.patch, patches=config.patches
    )
    for one in sets:
        warnings += _notes(one, real)
    twins, real_twins = (
        load_set(name, as_list(paths), table) if paths else None
        for name, paths, table in (
            ("twins", config.pairs, None),
            ("real twins", config.real_pairs, config.table),
        )
    )
    return Inputs(config, sets, real, train, twins, real_twins, tuple(plans), tuple(warnings))


def of_stain(one: SlideSet, stain: str) -> SlideSet:
    """The set without slides that say that they are of another stain: a folder of pairs has both.

    Args:
        one: a set.
        stain: "he" or "ihc"; slides that say nothing are taken for it.

    Raises:
        SlideError: no slide is left.
    """
    kept, failures = [], list(one.failures)
    for entry in one.entries:
        facts = read_provenance(entry.path)
        marker = facts.get("marker")
        if stain == "he" and marker:
            failures.append(Failure(entry.slide, f"is {marker} IHC, not H&E; give it as --pairs"))
        elif stain == "ihc" and facts.get("synthetic") and not marker:
            failures.append(Failure(entry.slide, "is H&E, and --stain ihc was asked for"))
        else:
            kept.append(entry)
    if not kept:
        raise SlideError(one.entries[0].path, failures[-1].reason)
    return replace(one, entries=tuple(kept), failures=tuple(failures))


def refuse_existing(config: EvaluateConfig) -> None:
    """Refuse to replace a report before hours are spent on another.

    Raises:
        OutputError: there is one, and ``overwrite`` was not asked for.
    """
    taken = [p for p in (config.out / VALUES, config.out / PAGE) if p.exists()]
    if taken and not config.overwrite:
        raise OutputError(taken[0], "exists already; pass --overwrite to replace it, or another --out")


def versions() -> dict[str, str]:
    """Of this package and of those that decide on the numbers."""
    return {"wsigen": __version__, "python": platform.python_version()} | {p: version(p) for p in _PACKAGES}


def config_dict(config: EvaluateConfig) -> dict[str, Any]:
    """The configuration as JSON-like values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def _notes(one: SlideSet, real: SlideSet) -> list[str]:
    notes = []
    groups = len({e.group for e in one.entries})
    if groups < MIN_GROUPS:
        notes.append(
            f"{one.name} has {groups} {'slides' if groups > 1 else 'slide'}, fewer than {MIN_GROUPS}: its "
            "intervals are those of its patches, and say nothing about other slides made alike"
        )
    common = {e.path for e in one.entries} & {e.path for e in real.entries}
    if common:
        notes.append(f"{len(common)} slides are both in {one.name} and in {real.name}")
    return notes
