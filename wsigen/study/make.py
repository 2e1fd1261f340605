"""Make a study: draw regions from slides, encode all alike, hide where they are from."""

from __future__ import annotations

import csv
import io
import json
import logging
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm.auto import tqdm

from wsigen.config.evaluate import as_list
from wsigen.config.study import TWO_SETS, StudyMakeConfig
from wsigen.data.domains import expand
from wsigen.data.index import FINEST, SlideEntry
from wsigen.errors import InvalidValueError, OutputError, SlideError
from wsigen.evaluation.inputs import of_stain
from wsigen.evaluation.sets import SlideSet, load_set
from wsigen.evaluation.spots import TISSUE_SHARE, Reader, Spot, tissue_share
from wsigen.files import TEMPORARY_SUFFIX, disk_errors, make_folder, sync_folder, write_bytes
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.study.study import ANSWERS, IMAGES, KEY, READERS, REAL, STUDY, SYNTHETIC, VERSION, Item, Study
from wsigen.viewer.facts import find_provenance, is_synthetic, parse_name

FAILURES = 60  # places in a row that overlap earlier ones or lack tissue: the slide has no more
SECONDS = {"slider": 0, "2afc": 10, "quality": 30, "paired": 0}
QUESTIONS = {
    "slider": ("Is this image real or synthetic?",),
    "2afc": ("Which image is real?",),
    "paired": ("Does the IHC image show the same tissue as the H&E image?",),
    "quality": (
        "Which translation has the best overall quality?",
        "Which translation shows the fewest tile borders?",
        "Which translation keeps colour and contrast best?",
    ),
}
_CODE_LETTERS = "ABCDEFGHJKMNPQRSTVWXYZ23456789"  # without those that look alike


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A region of a slide.

    Attributes:
        entry: the slide.
        centre: (y, x) in µm.
    """

    entry: SlideEntry
    centre: tuple[float, float]


Drawn = tuple[Place, list[np.ndarray]]  # with the pixels of the slide and of its translations


def make_study(config: StudyMakeConfig) -> Study:
    """Make a study in the folder ``config.out``, whole or not at all.

    Every image is decoded from its slide and encoded anew as PNG without metadata, of one size, under a
    random code.

    Args:
        config: of the study.

    Raises:
        SlideError: there are no slides, none that can be used, or one of ``real`` is synthetic by its
            provenance.
        InvalidValueError: the slides give fewer regions than are asked for.
        OutputError: the folder holds answers or something else, or cannot be written to.

    Determinism:
        Places and order follow from slides and seed; codes are random, so that a seed does not tell them.
    """
    _refuse_existing(config)
    writer = _Writer(config.out)
    try:
        items, training = _two_sets(config, writer) if config.kind in TWO_SETS else _sources(config, writer)
        study = Study(
            folder=config.out,
            id=secrets.token_hex(8),
            kind=config.kind,
            items=tuple(items),
            training=tuple(item._replace(solution=writer.truths[item.code]) for item in training),
            repeats=tuple(_repeated(items, config)),
            readers=tuple(_reader_codes(config.readers)),
            questions=tuple(config.question) or QUESTIONS[config.kind],
            seconds=SECONDS[config.kind] if config.seconds is None else config.seconds,
            mpp=config.mpp,
            size=config.size,
            seed=config.seed,
        )
        writer.finish(study)
    except BaseException:
        writer.discard()
        raise
    return study


class _Writer:
    """Writes images and key into a temporary folder, which takes the study's name when it is complete."""

    def __init__(self, out: Path) -> None:
        self._out, self._folder = out, out.with_name(out.name + TEMPORARY_SUFFIX)
        self.discard()
        make_folder(self._folder / IMAGES)
        self.truths: dict[str, Any] = {}
        self._images: dict[str, dict[str, Any]] = {}

    def image(self, pixels: np.ndarray, of: str, place: Place, slide: Path | None = None) -> str:
        """Write an image of a set; return its code."""
        code = secrets.token_hex(8)
        png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
        with disk_errors(self._folder):
            (self._folder / IMAGES / f"{code}.png").write_bytes(png)
        y, x = (round(c, 3) for c in place.centre)
        self._images[code] = {"set": of, "slide": str(slide or place.entry.path), "y_um": y, "x_um": x}
        return code

    def item(self, images: Sequence[str], truth: Any) -> Item:
        """Return an item of images, and note what is right."""
        item = Item(secrets.token_hex(8), tuple(images))
        self.truths[item.code] = truth
        return item

    def finish(self, study: Study) -> None:
        """Write key, readers' codes and the study; the folder takes its name."""
        key = {"version": VERSION, "study": study.id, "items": self.truths, "images": self._images}
        write_bytes(self._folder / KEY, _json(key))
        table = io.StringIO(newline="")
        csv.writer(table).writerows([("reader", "code"), *enumerate(study.readers, start=1)])
        write_bytes(self._folder / READERS, table.getvalue().encode())
        write_bytes(self._folder / STUDY, _json(study.as_dict()))
        with disk_errors(self._out):
            if self._out.is_dir():
                shutil.rmtree(self._out)
            self._folder.rename(self._out)
        sync_folder(self._out.parent)

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _two_sets(config: StudyMakeConfig, writer: _Writer) -> tuple[list[Item], list[Item]]:
    """Return items and training items of slider and 2afc."""
    sets = {REAL: _real_set(config), SYNTHETIC: _synthetic_set(config)}
    if common := {e.path for e in sets[REAL].entries} & {e.path for e in sets[SYNTHETIC].entries}:
        raise SlideError(min(common), "is given as --real and as --synthetic; leave one of them out")
    share = 1 if config.kind == "2afc" else 2  # images of a set an item
    counts = config.count // share, config.training // share
    codes = {
        name: [
            writer.image(pixels, name, place)
            for place, (pixels,) in _draw(one.entries, sum(counts), config, f"--{name}", share)
        ]
        for name, one in sets.items()
    }
    rows = list(zip(codes[REAL], codes[SYNTHETIC], strict=True))
    if config.kind == "2afc":
        items = [writer.item(row, row[0]) for row in rows]
        return items[: counts[0]], items[counts[0] :]
    items = [writer.item([code], name) for row in rows for code, name in zip(row, sets, strict=True)]
    return items[: config.count], _shuffled(items[config.count :], config)


def _sources(config: StudyMakeConfig, writer: _Writer) -> tuple[list[Item], list[Item]]:
    """Return items and training items of quality and paired."""
    source = _load("source", config)
    translated = {name: _translations(name, paths, config) for name, paths in config.translations.items()}
    entries, stained = _matching(source, translated, config)

    def read(entry: SlideEntry, centre: tuple[float, float]) -> list[np.ndarray]:
        slides = stained[entry.path]
        return [s.read_patch(centre, config.mpp, config.size, entry.background) for s in slides.values()]

    places, written = [], []
    for place, images in _draw(entries, config.count + config.training, config, "--source", 1, read):
        places.append(place)
        written.append(_written(place, images, stained[place.entry.path], writer))
    if config.kind == "quality":
        return [writer.item(codes, None) for codes in written], []
    order = np.random.default_rng([config.seed, 0x70]).permutation(len(places))
    parts = order[: config.count], order[config.count :]
    items, training = ([*_pairs(part, places, written, writer)] for part in parts)
    return items, _shuffled(training, config)


def _written(
    place: Place, images: Sequence[np.ndarray], slides: Mapping[str, WholeSlide], writer: _Writer
) -> list[str]:
    source = writer.image(images[0], "source", place)
    stained = zip(images[1:], slides.items(), strict=True)
    return [source, *(writer.image(pixels, name, place, slide.path) for pixels, (name, slide) in stained)]


def _pairs(
    part: np.ndarray, places: Sequence[Place], written: Sequence[Sequence[str]], writer: _Writer
) -> Iterator[Item]:
    """Yield, in turn, items that show one place, and two places, of one slide where possible."""
    indices: list[int] = part.tolist()
    half = len(indices) // 2
    one, two = indices[:half], sorted(indices[half:], key=lambda i: (str(places[i].entry.path), i))
    for i, j, k in zip(one, two, [*two[1:], *two[:1]], strict=True):
        yield writer.item(written[i][:2], True)
        yield writer.item([written[j][0], written[k][1]], False)


def _draw(
    entries: Sequence[SlideEntry],
    count: int,
    config: StudyMakeConfig,
    flag: str,
    share: int,
    more: Callable[[SlideEntry, tuple[float, float]], list[np.ndarray]] = lambda *_: [],
) -> Iterator[Drawn]:
    """Yield places and their pixels, in turn of the slides' groups and of the slides of a group.

    Args:
        entries: the slides.
        count: number of places.
        config: of the study.
        flag: of these slides, for messages.
        share: of this set, one image in so many items.
        more: further images of the same place.

    Raises:
        InvalidValueError: there are fewer places.
    """
    reader = Reader(config.seed)

    def regions(entry: SlideEntry) -> Iterator[Drawn]:
        for place in _places(entry, config):
            if images := attempt(place):
                yield place, images

    def attempt(place: Place) -> list[np.ndarray]:
        try:
            first = reader.at(place.entry, place.centre, config.mpp, config.size)
            return [first, *more(place.entry, place.centre)]
        except SlideError as error:
            log.warning("a region is left out: %s", error)
            return []

    groups: dict[str, list[Iterator[Drawn]]] = {}
    for i in np.random.default_rng([config.seed, 0x64]).permutation(len(entries)):
        groups.setdefault(entries[i].group, []).append(regions(entries[i]))
    waiting, number = list(groups.values()), 0
    with tqdm(total=count, desc=flag.lstrip("-"), unit="image", disable=count < 20) as bar:
        while number < count and waiting:
            slides = waiting.pop(0)
            found = next(slides[0], None)
            slides = slides[1:] if found is None else [*slides[1:], slides[0]]
            if slides:
                waiting.append(slides)
            if found is not None:
                number += 1
                bar.update()
                yield found
    if number < count:
        raise InvalidValueError(_too_few(number, count, config, flag, share))


def _places(entry: SlideEntry, config: StudyMakeConfig) -> Iterator[Place]:
    """Yield places on tissue that do not overlap; of a whole slide its middle."""
    extent, sides = config.size * config.mpp, (entry.height * entry.mpp, entry.width * entry.mpp)
    if entry.mpp * FINEST > config.mpp:
        return
    if config.whole_slides:
        if max(sides) <= extent:
            yield Place(entry, (sides[0] / 2, sides[1] / 2))
        return
    if min(sides) < extent:
        return
    taken: list[np.ndarray] = []
    number = failures = 0
    while failures < FAILURES:
        centre = Spot(entry, config.mpp, config.size, number).centre(config.seed)
        number, failures = number + 1, failures + 1
        apart = all(np.abs(np.subtract(centre, other)).max() >= extent for other in taken)
        if apart and tissue_share(entry, centre, extent) >= TISSUE_SHARE:
            taken.append(np.array(centre))
            failures = 0
            yield Place(entry, centre)


def _too_few(number: int, count: int, config: StudyMakeConfig, flag: str, share: int) -> str:
    training = f" and --training {config.training}" if config.training else ""
    what = (
        f"whole slides that fit {config.size} px at {config.mpp:g} µm/px"
        if config.whole_slides
        else f"separate regions of {config.size} px at {config.mpp:g} µm/px with tissue on at least half"
    )
    most = max(0, number * share - config.training)
    fix = "a coarser --mpp, a larger --size" if config.whole_slides else "a smaller --size"
    fewer = f" or --count {most}" if most >= 2 else ""
    asked = f"--count {config.count}{training} need {count}"
    return f"{flag} gives {number} {what}; {asked}; give more slides, {fix}{fewer}"


def _real_set(config: StudyMakeConfig) -> SlideSet:
    real = _load(REAL, config)
    for entry in real.entries:
        if is_synthetic(find_provenance(entry.path)):
            raise SlideError(
                entry.path, "is synthetic by its provenance, given as --real; give it as --synthetic"
            )
    return of_stain(real, config.stain)


def _synthetic_set(config: StudyMakeConfig) -> SlideSet:
    fix = "pass --synthetic-mpp, such as --synthetic-mpp 0.5, or write it into the file"
    found = load_set(SYNTHETIC, as_list(config.synthetic), mpp=config.synthetic_mpp, mpp_fix=fix)
    return of_stain(found, config.stain)


def _load(name: str, config: StudyMakeConfig) -> SlideSet:
    fix = "pass --real-mpp, such as --real-mpp 0.5, or a --table with columns slide,mpp"
    return load_set(name, as_list(getattr(config, name)), config.table, mpp=config.real_mpp, mpp_fix=fix)


def _translations(name: str, paths: list[str], config: StudyMakeConfig) -> dict[str, WholeSlide]:
    """Return the slides of a method, by what their names have in common with their source's."""
    slides = [open_slide(path, config.synthetic_mpp) for path in expand(paths).values()]
    slides = [s for s in slides if parse_name(s.path).label != "HE"]  # a folder of pairs has both
    if not slides:
        raise SlideError(
            paths[0], f"no IHC slide for --translation {name}; give the translations of --source"
        )
    return {parse_name(s.path).base: s for s in slides}


def _matching(
    source: SlideSet, translated: Mapping[str, Mapping[str, WholeSlide]], config: StudyMakeConfig
) -> tuple[list[SlideEntry], dict[Path, dict[str, WholeSlide]]]:
    """Return the sources that every method has translated, and their translations by method.

    Raises:
        InvalidValueError: there is none, or a translation is of another extent or too coarse.
    """
    entries: list[SlideEntry] = []
    stained: dict[Path, dict[str, WholeSlide]] = {}
    for entry in source.entries:
        base = parse_name(entry.path).base
        if parse_name(entry.path).label not in ("HE", "") or not all(base in m for m in translated.values()):
            continue
        slides = {name: slides[base] for name, slides in translated.items()}
        for name, slide in slides.items():
            extents = [(s.height * m, s.width * m) for s, m in ((slide.size, slide.mpp), (entry, entry.mpp))]
            if not np.allclose(*extents, rtol=0.01):
                raise InvalidValueError(
                    f"{slide.path} of --translation {name} does not belong to {entry.path}: "
                    f"{extents[0]} µm (height, width), expected {extents[1]}; translate the whole slide"
                )
            fine = slide.mpp * FINEST <= config.mpp
            if not fine:
                raise InvalidValueError(
                    f"{slide.path} has {slide.mpp:g} µm/px, got --mpp {config.mpp:g}; pass --mpp "
                    f"{slide.mpp:g} or more"
                )
        entries.append(entry)
        stained[entry.path] = slides
    if not entries:
        names = ", ".join(f"{name} ({', '.join(sorted(found)[:3])})" for name, found in translated.items())
        raise InvalidValueError(
            f"no slide of --source has a translation by every method, got {names}: a_IHC-SYN belongs to a_HE"
        )
    return entries, stained


def _repeated(items: Sequence[Item], config: StudyMakeConfig) -> list[str]:
    """Return codes of items to be shown twice, as many of one half as of the other where there are halves."""
    halves = [items] if config.kind in ("2afc", "quality") else [items[::2], items[1::2]]
    rng = np.random.default_rng([config.seed, 0x72])
    shuffled = [[half[i].code for i in rng.permutation(len(half))] for half in halves]
    return [code for row in zip(*shuffled, strict=True) for code in row][: config.repeats]


def _shuffled(items: Sequence[Item], config: StudyMakeConfig) -> list[Item]:
    rng = np.random.default_rng([config.seed, 0x74])
    return [items[i] for i in rng.permutation(len(items))]


def _reader_codes(count: int) -> list[str]:
    codes: dict[str, None] = {}
    while len(codes) < count:
        codes["".join(secrets.choice(_CODE_LETTERS) for _ in range(8))] = None
    return list(codes)


def _refuse_existing(config: StudyMakeConfig) -> None:
    """Refuse to replace answers, or a folder that is no study.

    Raises:
        OutputError: names the folder and what to do.
    """
    out = config.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / STUDY).is_file():
        raise OutputError(out, "exists and is no study; choose another --out")
    if _has_answers(out / ANSWERS):
        raise OutputError(
            out, "readers have answered this study; choose another --out, or move the folder away"
        )
    if not config.overwrite:
        raise OutputError(out, "exists already; pass --overwrite to replace it, or another --out")


def _has_answers(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(path)) as db:
            return bool(db.execute("SELECT EXISTS (SELECT 1 FROM answers)").fetchone()[0])
    except sqlite3.Error:
        return True  # unreadable: not ours to delete


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
