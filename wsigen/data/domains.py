"""Two domains of slides, the stain to translate from and the one to translate to, and patches of both.

Patches are unpaired, but cases are not mixed: all slides of one group, such as an H&E and an IHC section of
one case, are in the same split.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from wsigen.data.find import SLIDE_SUFFIXES, Failure, find_slides
from wsigen.data.index import SlideEntry, SlideIndex
from wsigen.data.patches import Patch, PatchDataset, PatchKey, collate
from wsigen.data.survey import entries_of, said_splits, survey_slides
from wsigen.data.table import group_splits
from wsigen.errors import InvalidValueError, SlideError
from wsigen.slide.parts import is_zarr, slide_path

TARGET_STREAM = 2**62
"""Offset between the seeds of target and source, so that images of one number are independent."""


@dataclass(frozen=True)
class Domains:
    """Slides of both stains.

    Attributes:
        source: slides to translate from.
        target: slides of the stain to translate to.
    """

    source: SlideIndex
    target: SlideIndex

    def split(self, name: str) -> Domains:
        """Return the slides of one split."""
        return Domains(self.source.split(name), self.target.split(name))


def expand(slides: str | Sequence[str], left_out: list[Failure] | None = None) -> dict[str, Path]:
    """Expand folders, files and patterns to slides: name to path, as in `find_slides`.

    Args:
        slides: a folder (searched through all its sub-folders), a slide, a pattern with ``*``, ``?`` or
            ``[]``, or several of them.
        left_out: as for `find_slides`.

    Raises:
        SlideError: one of them names no slide.
    """
    given = [slides] if isinstance(slides, str) else list(slides)
    if len(given) == 1 and Path(given[0]).is_dir() and not is_zarr(Path(given[0])):
        # Names relative to the folder, as in the table.
        return find_slides(Path(given[0]), left_out)
    found = sorted({path.absolute() for one in given for path in _expand_one(one, left_out)})
    names = {path.name: path for path in found}
    return names if len(names) == len(found) else {path.as_posix(): path for path in found}


def _expand_one(slides: str, left_out: list[Failure] | None) -> Iterable[Path]:
    if Path(slides).exists() or not glob.has_magic(slides):
        return find_slides(Path(slides), left_out).values()
    files = [Path(p) for p in glob.glob(slides, recursive=True)]  # noqa: PTH207  patterns may be absolute
    files = [p for p in files if is_zarr(p) or (p.is_file() and p.suffix.lower() in SLIDE_SUFFIXES)]
    if not files:
        raise SlideError(slides, "no slide matches this pattern; put it in quotes, and check its folder")
    return map(slide_path, files)


def load_or_build_domains(
    source: str | Sequence[str],
    target: str | Sequence[str],
    *,
    table: Path | None = None,
    val_fraction: float = 0.1,
) -> Domains:
    """Index the slides of both domains, and split them together into training and validation.

    Groups whose split the table does not state go to validation by the hashes of their names: the share
    ``val_fraction``, at least one of two, but never the last training group of a domain.

    Args:
        source: slides to translate from: as for `expand`, or an index made by ``wsigen index``.
        target: the same, of the stain to translate to.
        table: CSV for both domains with µm/px, groups and splits; see `SlideTable.load`.
        val_fraction: share of the groups of both domains kept for validation; 0 for none.

    Raises:
        InvalidValueError: a slide is in both domains, or a group in two splits.
        SlideError: no slide can be used, or a domain has none in the train split.

    Determinism:
        Depends on names, pixels and table alone.
    """
    given = [_entries(slides, table) for slides in (source, target)]
    both = {e.path for e in given[0]} & {e.path for e in given[1]}
    if both:
        raise InvalidValueError(
            f"{min(both)} is both in data.source and data.target; remove it from one of them"
        )
    groups = _said(*(said_splits(entries) for entries in given))
    splits = group_splits(groups, val_fraction, [{e.group for e in entries} for entries in given])
    indexes = [SlideIndex(tuple(replace(e, split=splits[e.group]) for e in entries)) for entries in given]
    for index, slides in zip(indexes, (source, target), strict=True):
        if not index.split("train").entries:
            raise SlideError(str(slides), "no slide in the train split; check the table's split column")
    return Domains(*indexes)


def _said(source: dict[str, str | None], target: dict[str, str | None]) -> dict[str, str | None]:
    """Merge the stated splits of both domains: one stated for either domain holds for both."""
    for group in source.keys() & target.keys():
        if source[group] and target[group] and source[group] != target[group]:
            raise InvalidValueError(
                f"group {group!r} is in split {source[group]} of data.source and {target[group]} of "
                "data.target; give the group one split"
            )
    return {g: source.get(g) or target.get(g) for g in source | target}


def _entries(slides: str | Sequence[str], table: Path | None) -> list[SlideEntry]:
    """Return the slides of one domain, with an empty split where it is undecided."""
    if isinstance(slides, str) and slides.endswith(".parquet"):
        return list(SlideIndex.load(Path(slides)).entries)
    folder = Path(slides if isinstance(slides, str) else slides[0])
    return entries_of(survey_slides(expand(slides), table, folder=folder)[0])


class DomainPatches(NamedTuple):
    """One training image of each domain; independent of each other."""

    source: Patch
    target: Patch


class DomainDataset(Dataset[DomainPatches]):
    """Patches of two domains, drawn independently.

    Args:
        source: patches of the source.
        target: patches of the target; their seed must differ.

    Determinism:
        As `PatchDataset`: a function of the two seeds and the key.
    """

    def __init__(self, source: PatchDataset, target: PatchDataset) -> None:
        self.source, self.target = source, target

    def __getitem__(self, key: PatchKey) -> DomainPatches:
        return DomainPatches(self.source[key], self.target[key])

    def require(self, size: int) -> None:
        """Check that both domains can serve patches of ``size`` px.

        Raises:
            InvalidValueError: a domain cannot at any µm/px.
        """
        _require(self.source, size, "data.source")
        _require(self.target, size, "data.target")


def _require(patches: PatchDataset, size: int, name: str) -> None:
    try:
        patches.require(size)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name}: {error}") from error


def collate_domains(pairs: list[DomainPatches]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Stack pairs: source uint8 (b, 3, h, w), target of the same shape, numbers."""
    source, *_, numbers = collate([p.source for p in pairs])
    target, *_ = collate([p.target for p in pairs])
    return source, target, numbers
