"""The slides of an evaluation and the number of patches to compare; nothing is measured yet."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsigen import __version__
from wsigen.config.check import as_list
from wsigen.config.evaluate import REAL, TRAIN, EvaluateConfig
from wsigen.data.find import Failure
from wsigen.data.survey import TABLE_FIX
from wsigen.errors import OutputError, SlideError
from wsigen.evaluation.estimate import MIN_GROUPS
from wsigen.evaluation.results import Share
from wsigen.evaluation.sets import ScalePlan, SlideSet, load_set, plan_scales
from wsigen.slide.provenance import read_provenance

PAGE, VALUES = "index.html", "report.json"
_PACKAGES = ("numpy", "scipy", "torch", "torch-fidelity", "opencv-python-headless", "scikit-image")


@dataclass(frozen=True)
class Inputs:
    """The slides to compare.

    Attributes:
        config: the options.
        sets: to be judged.
        real: to judge by.
        train: slides the model learnt from; None if not given.
        ihc: IHC slides of the set ``generated``; None if not given.
        real_ihc: real slides of their stain.
        plans: by µm/px, finest first.
        warnings: about slides and µm/px.
    """

    config: EvaluateConfig
    sets: tuple[SlideSet, ...]
    real: SlideSet
    train: SlideSet | None
    ihc: SlideSet | None
    real_ihc: SlideSet | None
    plans: tuple[ScalePlan, ...]
    warnings: tuple[str, ...]

    @property
    def drawn(self) -> list[SlideSet]:
        """All sets that patches are taken from, the real ones first."""
        return [self.real, *self.sets, *([self.train] if self.train else [])]

    def shares(self, one: SlideSet) -> tuple[Share, ...]:
        """Return how many patches each slide of a set gives."""
        given = {f"{p.mpp:g}": p.allotted.get(one.name, {}) for p in self.plans}
        return tuple(
            Share(e.slide, e.group, e.mpp, {mpp: g[e.slide] for mpp, g in given.items() if g.get(e.slide)})
            for e in one.entries
        )


def load_inputs(config: EvaluateConfig) -> Inputs:
    """Survey all slides, and plan how many patches each gives.

    Raises:
        SlideError: a set has no slide that can be used, or none of the stain, or a slide is both in real and
            in train.
        InvalidValueError: no µm/px at which all sides can be compared.
    """
    real = _real(REAL, config.real, config)
    sets = tuple(
        of_stain(_generated(name, paths, config), config.stain) for name, paths in config.sets.items()
    )
    train = _real(TRAIN, as_list(config.train), config) if config.train else None
    if train and (common := _common(train, real)):
        why = "membership cannot be told from held-out slides that were trained on"
        raise SlideError(min(common), f"is in {train.name} and in {real.name}; {why}")
    plans, warnings = plan_scales(
        sets, real, train, scales=config.scales, patch=config.patch, patches=config.patches
    )
    for one in sets:
        warnings += _notes(one, real)
    ihc = _generated("IHC", as_list(config.pairs), config) if config.pairs else None
    real_ihc = _real("real IHC", as_list(config.real_pairs), config) if config.real_pairs else None
    return Inputs(config, sets, real, train, ihc, real_ihc, tuple(plans), tuple(warnings))


def _real(name: str, paths: str | list[str], config: EvaluateConfig) -> SlideSet:
    fix = f"{TABLE_FIX}, or if all such files have the same, pass --real-mpp, such as --real-mpp 0.5"
    return load_set(name, paths, config.table, mpp=config.real_mpp, mpp_fix=fix)


def _generated(name: str, paths: list[str], config: EvaluateConfig) -> SlideSet:
    fix = "pass --generated-mpp, such as --generated-mpp 0.5, or write it into the file"
    return load_set(name, paths, mpp=config.generated_mpp, mpp_fix=fix)


def of_stain(one: SlideSet, stain: str) -> SlideSet:
    """Leave out slides whose provenance names another stain: a folder of pairs has both.

    Args:
        one: a set.
        stain: "he" or "ihc"; slides without provenance are taken for it.

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


def refuse_existing(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse to replace a report before hours are spent on another.

    Raises:
        OutputError: there is one in the folder, and ``overwrite`` is not set.
    """
    taken = [p for p in (folder / VALUES, folder / PAGE) if p.exists()]
    if taken and not overwrite:
        raise OutputError(taken[0], "exists already; pass --overwrite to replace it, or another --out")


def versions() -> dict[str, str]:
    """Return the versions of this package and of those that decide on the numbers."""
    return {"wsigen": __version__, "python": platform.python_version()} | {p: version(p) for p in _PACKAGES}


def config_dict(config: EvaluateConfig) -> dict[str, Any]:
    """Return the configuration as JSON-like values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def _notes(one: SlideSet, real: SlideSet) -> list[str]:
    notes = []
    groups = len({e.group for e in one.entries})
    # then halves are of patches, and those of a slide are alike
    if groups < MIN_GROUPS:
        notes.append(
            f"{one.name} has {groups} {'slides' if groups > 1 else 'slide'}, fewer than {MIN_GROUPS}: its "
            "intervals are those of its patches, and say nothing about other slides made alike"
        )
    if common := _common(one, real):
        notes.append(f"{len(common)} slides are both in {one.name} and in {real.name}")
    return notes


def _common(one: SlideSet, other: SlideSet) -> set[Path]:
    return {e.path for e in one.entries} & {e.path for e in other.entries}
