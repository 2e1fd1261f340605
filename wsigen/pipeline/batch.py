"""Translate many slides in one call: one after the other, past those that fail, with a table of the outcomes.

Every slide goes through `wsigen.pipeline.translate.open_run`, as it would alone. Networks are loaded once.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from wsigen.config import TranslateConfig, TranslateSlidesConfig
from wsigen.data.find import find_slides
from wsigen.data.table import SlideTable
from wsigen.errors import InvalidValueError, PathError, SlideError, WsigenError
from wsigen.files import write_bytes
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.source import open_source, source_name
from wsigen.pipeline.stainers import open_stainers
from wsigen.pipeline.translate import TranslateRun, as_in_table, open_run, rendering_of
from wsigen.slide.mask import Roi, find_mask
from wsigen.slide.parts import slide_path
from wsigen.slide.provenance import read_provenance
from wsigen.slide.view import View

TABLE = "translate.csv"

Opened = Callable[[TranslateRun], object]
"""Called with a slide's run before the slide is made."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one slide.

    Attributes:
        slide: the H&E, as it was given.
        output: its IHC slides, relative to the folder that is written to, separated by ";".
        status: "translated", "exists" (made by an earlier call), "failed", "interrupted" or "not started".
        seconds: that it took.
        mpp: µm/px; None if the slide could not be opened.
        width: of the IHC slides, px.
        height: of the IHC slides, px.
        error: why it failed.
    """

    slide: str
    output: str = ""
    status: Literal["translated", "exists", "failed", "interrupted", "not started"] = "not started"
    seconds: float = 0.0
    mpp: float | None = None
    width: int | None = None
    height: int | None = None
    error: str = ""


def translate_slides(
    config: TranslateSlidesConfig,
    networks: Networks | None = None,
    *,
    opened: Opened | None = None,
) -> list[Outcome]:
    """Translate slides one after the other; the same call again skips finished ones and continues.

    A slide that fails is logged, and the others are made. The table ``translate.csv`` in the folder that is
    written to holds the outcomes; it is written after every slide.

    Args:
        config: of the call.
        networks: where loaded networks are kept.
        opened: called with each slide's run before the slide is made.

    Returns:
        The outcome of each slide, in order.

    Raises:
        InvalidValueError: two slides would be written to one file, or there is one mask for several slides.
        SlideError: there is no slide.
        SnapshotError: a stainer cannot be loaded.
        OutputError: the table cannot be written.
    """
    networks, configs = networks or Networks(), slide_configs(config)
    _load(config, networks)
    outcomes = [Outcome(str(one.slide)) for one in configs.values()]
    for i, (name, one) in enumerate(configs.items()):
        log.info("slide %d of %d: %s", i + 1, len(configs), one.slide)
        try:
            outcomes[i] = _translate(name, one, networks, opened)
        except KeyboardInterrupt:
            outcomes[i] = replace(outcomes[i], status="interrupted")
            raise
        finally:
            write_bytes(config.out / TABLE, as_csv(outcomes).encode())
    return outcomes


def describe_slides(
    config: TranslateSlidesConfig,
    networks: Networks | None = None,
    *,
    opened: Opened | None = None,
) -> list[str]:
    """Return the plan of each slide, see `TranslateRun.describe`, or why there is none; nothing is written.

    Raises:
        See `translate_slides`.
    """
    networks, configs = networks or Networks(), slide_configs(config)
    _load(config, networks)
    plans = []
    for name, one in configs.items():
        try:
            plan = _open(name, one, networks, opened).describe()
        except WsigenError as error:
            plan = f"fails       {error}"
        plans.append(f"{one.slide}\n{plan}")
    return plans


def slide_configs(config: TranslateSlidesConfig) -> dict[str, TranslateConfig]:
    """Return the configuration of each slide, by its name relative to its folder.

    Files that `wsigen translate` made are no H&E, and are left out of folders.

    Raises:
        InvalidValueError: two slides would be written to one file, or there is one mask for several slides.
        SlideError: there is no slide.
        PathError: the table cannot be read.
    """
    found: dict[str, TranslateConfig] = {}
    bases: dict[PurePosixPath, Path] = {}
    seen: set[Path] = set()
    for name, path in _named(config.slide if isinstance(config.slide, list) else [config.slide]):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        base = PurePosixPath(name).parent / (config.name or source_name(path))
        if (other := bases.setdefault(base, path)) is not path:
            raise InvalidValueError(
                f"{other} and {path} would both be written to {config.out / base}_…; rename one, or "
                "translate them in two calls with another --out each"
            )
        found[name] = config.of(path, config.out / base.parent)
    Roi(config.mask).require_masks(len(found))
    if config.table is not None:
        rows = SlideTable.load(config.table).match(list(found))
        found = {name: as_in_table(one, rows[name]) for name, one in found.items()}
    return found


def as_csv(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as CSV with the attributes of `Outcome` as columns."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Outcome)], lineterminator="\n")
    table.writeheader()
    table.writerows({**asdict(one), "seconds": f"{one.seconds:.1f}"} for one in outcomes)
    return text.getvalue()


def as_text(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a table for people."""
    lines = [f"{'status':<11} {'seconds':>8} {'µm/px':>6} {'width × height':>15}  slide: output or error"]
    for one in outcomes:
        mpp = "" if one.mpp is None else f"{one.mpp:.3g}"
        size = "" if one.width is None else f"{one.width} × {one.height}"
        said = ": ".join(part for part in (one.slide, one.error or one.output) if part)
        lines.append(f"{one.status:<11} {one.seconds:>8.1f} {mpp:>6} {size:>15}  {said}")
    return "\n".join(lines)


def require_all(outcomes: Sequence[Outcome], out: Path) -> None:
    """Raise if a slide failed.

    Args:
        outcomes: of all slides.
        out: folder of the table.

    Raises:
        PathError: names the table and how many failed.
    """
    failed = sum(one.status == "failed" for one in outcomes)
    if failed:
        some = f"{failed} of {len(outcomes)} slides failed"
        raise PathError(out / TABLE, f"{some}; the same command tries them again and skips the others")


def _named(slides: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return slides with their names relative to the folders that they were found in."""
    named: list[tuple[str, Path]] = []
    for given in slides:
        if not given.is_dir():
            named.append((given.name, given))
            continue
        inside = {name: given / name for name in find_slides(given)}
        made = [name for name, path in inside.items() if "source" in read_provenance(path)]
        for name in made:
            log.info("left out %s: made by wsigen translate", inside.pop(name))
        if not inside:
            raise SlideError(given, "no slide in this folder but those that wsigen translate made")
        named += inside.items()
    return named


def _load(config: TranslateSlidesConfig, networks: Networks) -> None:
    """Load what all slides share, so that mistakes in it are found before any of them is opened."""
    rendering = rendering_of(config)
    if config.stainer is not None:
        open_stainers(config.stainer, config.markers, rendering, networks)
    if config.like is not None and config.style is not None:
        open_source(config.like, config.like_mpp, view=View(config.like_series), prefix="like-")
        networks.style(config.style, rendering.device)


def _open(
    name: str,
    config: TranslateConfig,
    networks: Networks,
    opened: Opened | None,
) -> TranslateRun:
    if config.mask is not None:
        config = replace(config, mask=find_mask(config.mask, name, slide_path(config.slide)))
    run = replace(open_run(config, networks), several=True)
    if opened is not None:
        opened(run)
    return run


def _translate(
    name: str,
    config: TranslateConfig,
    networks: Networks,
    opened: Opened | None,
) -> Outcome:
    start, outcome = time.monotonic(), Outcome(str(config.slide), status="failed")
    try:
        run = _open(name, config, networks, opened)
        size = run.made.size
        outcome = replace(outcome, mpp=run.slide.mpp, width=size.width, height=size.height)
        top = PurePosixPath(name).parent
        outcome = replace(outcome, output=";".join(str(top / output.slide.name) for output in run.outputs))
        outcome = replace(outcome, status="translated" if run.make() else "exists")
    except WsigenError as error:
        log.error("%s", error)
        outcome = replace(outcome, error=str(error))
    except Exception as error:  # a bug, or a library that fails on this file: the others are still made
        log.exception("%s failed", config.slide)
        outcome = replace(outcome, error=f"{type(error).__name__}: {error}")
    return replace(outcome, seconds=time.monotonic() - start)
