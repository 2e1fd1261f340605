"""The slides that a viewer shows, in cases: an H&E slide and the slides that were made from it."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from tqdm.auto import tqdm

from wsigen.arrays import ArrayCache
from wsigen.data.find import Failure, find_slides
from wsigen.data.table import Row, SlideTable
from wsigen.errors import PathError, SlideError, WsigenError
from wsigen.slide.levels import FileSlide, Slide
from wsigen.slide.provenance import beside, patch_grids
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.slide.stored import stored_tiles
from wsigen.viewer.deepzoom import DeepZoom
from wsigen.viewer.facts import Name, find_provenance, is_synthetic, parse_name, stain_title
from wsigen.viewer.heatmap import Heatmap, legend
from wsigen.viewer.overlay import read_overlay

SEEDS_KEPT = 2
OVERVIEW_BYTES = 64 * 2**20
_SEED = re.compile(r"seed:(\d{1,19}):(.+)", re.ASCII)
_UNSAFE = re.compile(r"[^\w.+-]")  # ":" is kept for names of computed slides

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One slide.

    Attributes:
        name: in addresses; of a file, its name without suffix.
        title: that is shown.
        label: "HE", "IHC-SYN", "like-NAME", or "" where it is unknown.
        tiles: of the slide.
        mpp: µm/px of level 0.
        provenance: flat; empty where wsigen did not write the slide.
        version: changes whenever the pixels may have changed.
        path: of the file; None for a computed slide.
        base: of its name, which it shares with the slides of its case.
        overlays: paths of its annotations, by title.
    """

    name: str
    title: str
    label: str
    tiles: DeepZoom
    mpp: float
    provenance: dict[str, str]
    version: str
    path: Path | None = None
    base: str = ""
    overlays: Mapping[str, Path] = field(default_factory=dict)

    @property
    def computed(self) -> bool:
        """Whether its pixels are computed where they are looked at."""
        return self.path is None

    @property
    def heatmap(self) -> Heatmap | None:
        """Of DAB; None where there is none: of H&E, and of computed slides, all of which it would compute."""
        is_shown = self.label.startswith("IHC-") and not self.computed
        return Heatmap(self.tiles, self.mpp) if is_shown else None

    def describe(self, overlays: Sequence[str]) -> dict[str, Any]:
        """Return the facts that the page shows; ``overlays`` are those of ``self`` that could be read."""
        return {
            "name": self.name,
            "title": self.title,
            "stain": stain_title(self.label),
            "width": self.tiles.size.width,
            "height": self.tiles.size.height,
            "mpp": self.mpp,
            "computed": self.computed,
            "synthetic": is_synthetic(self.provenance),
            "provenance": self.provenance,
            "version": self.version,
            "overlays": list(overlays),
            "grids": patch_grids(self.provenance),
            "heatmap_um": self.heatmap and self.heatmap.width_um,
        }


@dataclass(frozen=True)
class Case:
    """Slides that are shown together.

    Attributes:
        title: that is shown.
        entries: the H&E first.
    """

    title: str
    entries: tuple[Entry, ...]


class Catalogue:
    """The slides of a viewer, by name. Nothing but these is ever served.

    Args:
        cases: of files.
        failures: slides that cannot be shown, and why.
        seeds: computes the slide of a seed; None where only files are shown.
        first_seed: that is listed.

    Memory: `SEEDS_KEPT` computed slides.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        failures: Sequence[Failure] = (),
        seeds: Callable[[int], Case] | None = None,
        first_seed: int | None = None,
    ) -> None:
        self.cases, self.failures, self.first_seed = tuple(cases), list(failures), first_seed
        self._entries = {entry.name: entry for case in cases for entry in case.entries}
        self._seeds, self._computed = seeds, OrderedDict[int, Case]()
        self._lock = Lock()
        self.overlays = self._read_overlays()

    def entry(self, name: str) -> Entry | None:
        """Return the slide of this name; None if there is none."""
        if name in self._entries:
            return self._entries[name]
        match = _SEED.fullmatch(name)
        case = self.seed_case(int(match[1])) if match else None
        return next((e for e in case.entries if e.name == name), None) if case else None

    def seed_case(self, seed: int) -> Case | None:
        """Return the slide of a seed and its translations; None where none are computed."""
        if self._seeds is None or seed >= 2**63:
            return None
        with self._lock:
            if seed not in self._computed:
                self._computed[seed] = self._seeds(seed)
            self._computed.move_to_end(seed)
            while len(self._computed) > SEEDS_KEPT:
                self._computed.popitem(last=False)  # not closed: a tile of it may be computed just now
            return self._computed[seed]

    def describe(self, seed: int | None = None) -> dict[str, Any]:
        """Return cases and failures as the page reads them.

        Args:
            seed: whose slide is listed besides the files; None for the first one.
        """
        seed = self.first_seed if seed is None else seed
        computed = None if seed is None else self.seed_case(seed)
        cases = [*([computed] if computed else []), *self.cases]
        return {
            "cases": [
                {"title": case.title, "slides": [e.describe(self._titles(e)) for e in case.entries]}
                for case in cases
            ],
            "failures": [{"slide": failure.slide, "reason": failure.reason} for failure in self.failures],
            "seed": seed if computed else None,
            "heatmap": legend(),
        }

    def _titles(self, entry: Entry) -> list[str]:
        return [title for title in entry.overlays if (entry.name, title) in self.overlays]

    def _read_overlays(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        paths = {(e.name, title): path for e in self._entries.values() for title, path in e.overlays.items()}
        read = {key: _attempt(path.name, partial(read_overlay, path)) for key, path in paths.items()}
        self.failures += [found for found in read.values() if isinstance(found, Failure)]
        return {key: found for key, found in read.items() if not isinstance(found, Failure)}


def open_catalogue(
    slides: Sequence[Path],
    *,
    overlays: Sequence[Path] = (),
    table: Path | None = None,
    mpp: float | None = None,
    seeds: Callable[[int], Case] | None = None,
    first_seed: int | None = None,
) -> Catalogue:
    """Open slides and put them into cases; those that cannot be read are listed as failures.

    Args:
        slides: files and folders.
        overlays: GeoJSON files besides those that lie beside the slides.
        table: CSV with columns slide, and any of mpp, series, z.
        mpp: µm/px of files that do not state it.
        seeds: computes the slide of a seed.
        first_seed: that is listed.

    Raises:
        SlideError: none of the slides can be read.
        PathError: an overlay belongs to none of the slides, or the table cannot be read.
    """
    failures: list[Failure] = []
    paths = _find(slides, failures)
    rows = (SlideTable.load(table) if table else SlideTable()).match(list(paths))
    cache, bar = ArrayCache(OVERVIEW_BYTES), tqdm(paths.items(), "open slides", disable=len(paths) < 20)
    opened = [_attempt(name, partial(_entry, path, rows[name], mpp, cache)) for name, path in bar]
    entries = [found for found in opened if isinstance(found, Entry)]
    failures += [found for found in opened if isinstance(found, Failure)]
    if slides and not entries and seeds is None:
        raise SlideError(slides[0], "; ".join(f"{f.slide}: {f.reason}" for f in failures[:3]))
    named = _with_overlays(_unique(entries), overlays)
    return Catalogue(group(named), failures, seeds, first_seed)


def computed_case(seed: int, slides: Mapping[str, Slide]) -> Case:
    """Return the case of a slide that is computed where it is looked at.

    Args:
        seed: of the slide.
        slides: by label: "HE", "IHC-SYN".
    """
    return Case(f"Seed {seed}", tuple(_computed(seed, *named) for named in slides.items()))


def slide_case(slide: Slide, stained: Mapping[str, Slide]) -> Case:
    """Return the case of slides that are open already, for notebooks.

    Args:
        slide: the first one.
        stained: made from it, by label.
    """
    file = parse_name(slide.path) if isinstance(slide, FileSlide) else Name("slide", "slide", "HE")
    named = {file.label or "HE": slide, **stained}
    return Case(file.base, tuple(_opened(file, *each) for each in named.items()))


def group(entries: Sequence[Entry]) -> list[Case]:
    """Put slides into cases: by the source that their provenance states, else by folder and name.

    A slide that was made from another version of the slide beside it, as the fingerprints say, is a case of
    its own: the two do not show the same tissue.
    """
    cases: dict[object, list[Entry]] = {}
    for entry in entries:
        cases.setdefault(_root(entry, entries), []).append(entry)
    ordered = [sorted(found, key=lambda e: (e.label not in ("HE", ""), e.label)) for found in cases.values()]
    return [Case(found[0].base or found[0].name, tuple(found)) for found in ordered]


def _root(entry: Entry, entries: Sequence[Entry]) -> object:
    seen = []
    while entry.provenance.get("source.slide") and entry not in seen:
        seen.append(entry)
        of_name = [e for e in entries if e.path and e.path.name == entry.provenance["source.slide"]]
        fitting = [e for e in of_name if _may_be_source(e, entry)]
        if of_name and not fitting:
            log.warning("%s was made from another version of %s; not paired", entry.title, of_name[0].title)
            return entry.name
        near = [e for e in fitting if e.path and entry.path and e.path.parent == entry.path.parent]
        if not fitting or (len(fitting) > 1 and not near):
            break
        entry = (near or fitting)[0]
    return entry.path.parent if entry.path else None, entry.base


def _may_be_source(source: Entry, entry: Entry) -> bool:
    made_from, own = entry.provenance.get("source.fingerprint"), source.provenance.get("fingerprint")
    return source.tiles.size == entry.tiles.size and (not made_from or not own or made_from == own)


def _find(slides: Sequence[Path], failures: list[Failure]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for given in slides:
        named = _attempt(str(given), partial(find_slides, given, failures))
        if isinstance(named, Failure):
            failures.append(named)
            continue
        for name, path in named.items():
            if path not in found.values():
                found[name if name not in found else str(path)] = path
    return found


def _attempt(name: str, work: Callable[[], T]) -> T | Failure:
    """Return what the work returns; where it fails, say why and return that."""
    try:
        return work()
    except WsigenError as error:
        reason = error.reason if isinstance(error, PathError) else str(error)
        log.warning("left out %s: %s", name, reason)
        return Failure(name, reason)


def _entry(path: Path, row: Row, mpp: float | None, cache: ArrayCache) -> Entry:
    file = open_slide(path, row.mpp or mpp, row.view)
    parts = parse_name(path)
    return Entry(
        name=_UNSAFE.sub("_", parts.whole),
        title=path.name,
        label=parts.label,
        tiles=DeepZoom(FileSlide(file), cache, stored_tiles(file)),
        mpp=file.mpp,
        provenance=find_provenance(path),
        version=_version(file),
        path=path,
        base=parts.base,
        overlays=_beside(path),
    )


def _version(file: WholeSlide) -> str:
    return sha256(repr((file.path, file.identity, file.view, file.mpp)).encode()).hexdigest()[:12]


def _beside(path: Path) -> dict[str, Path]:
    paths = (beside(path, ".geojson"), path.with_name(path.name + ".geojson"), path.with_suffix(".geojson"))
    return {p.name: p for p in paths if p.is_file()}


def _unique(entries: Sequence[Entry]) -> list[Entry]:
    """Give slides of the same name in several folders different names: ``a``, ``a~2``."""
    seen: dict[str, int] = {}
    named = []
    for entry in entries:
        seen[entry.name] = count = seen.get(entry.name, 0) + 1
        named.append(entry if count == 1 else replace(entry, name=f"{entry.name}~{count}"))
    return named


def _with_overlays(entries: list[Entry], overlays: Sequence[Path]) -> list[Entry]:
    for path in overlays:
        which = _owner(path, entries)
        added = {**entries[which].overlays, path.name: path}
        entries[which] = replace(entries[which], overlays=added)
    return entries


def _owner(path: Path, entries: Sequence[Entry]) -> int:
    """Return the index of an overlay's slide: the one of its name, or the first of the only case."""
    bases = {entry.base for entry in entries}
    stem = path.name.partition(".geojson")[0].partition(".json")[0]
    names = [
        (entry.path.name if entry.path else "", parse_name(Path(entry.title)).whole) for entry in entries
    ]
    same = [i for i, name in enumerate(names) if stem in name]
    if same or (len(bases) == 1 and entries):
        return (same or [0])[0]
    known = ", ".join(sorted({whole for _, whole in names})[:5]) or "none"
    reason = f"belongs to no slide that is shown; name it as its slide ({known}) with .geojson"
    raise PathError(path, reason)


def _computed(seed: int, label: str, slide: Slide) -> Entry:
    entry = _opened(Name("", f"Seed {seed}", label), label, slide)
    return replace(entry, name=f"seed:{seed}:{label}", version=entry.provenance.get("fingerprint", ""))


def _opened(file: Name, label: str, slide: Slide) -> Entry:
    path = slide.path if isinstance(slide, FileSlide) else None
    return Entry(
        name=_UNSAFE.sub("_", f"{file.base}_{label}"),
        title=path.name if path else f"{file.base} {stain_title(label)}",
        label=label,
        tiles=DeepZoom(slide, ArrayCache(OVERVIEW_BYTES)),
        mpp=slide.mpp,
        provenance=find_provenance(path) if path else _properties(slide),
        version=f"{id(slide):x}",
        path=path,
        base=file.base,
    )


def _properties(slide: Slide) -> dict[str, str]:
    prefix = "wsigen."
    found = slide.properties.items()
    return {key.removeprefix(prefix): value for key, value in found if key.startswith(prefix)}
