"""Run the viewer for the command, until it is interrupted."""

from __future__ import annotations

import contextlib
import logging
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

from wsigen.config.view import ViewConfig
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.synthetic import SyntheticSlide
from wsigen.runtime import keep_freed_memory, parse_bytes
from wsigen.viewer.catalogue import Case, Catalogue, computed_case, open_catalogue
from wsigen.viewer.server import address, listen, make_app, make_server

SLIDE_CACHE = "256MiB"
MPP = 0.5

log = logging.getLogger(__name__)


def view(config: ViewConfig) -> None:
    """Serve slides until the command is interrupted.

    Raises:
        SlideError: none of the slides can be read.
        InvalidValueError: the port is taken, the extra ``view`` is not installed, or the slide of ``seed`` is
            not possible.
    """
    make_server(lambda *_: None)  # pyright: ignore[reportArgumentType] # says what is not installed, at once
    with listen(config.host, config.port) as sock:
        catalogue = _open(config)
        cache = parse_bytes(config.cache, "--cache")
        server = make_server(make_app(catalogue, host=config.host, cache=cache))
        url = address(sock)
        count = sum(len(case.entries) for case in catalogue.cases)
        log.info("%d slides in %d cases at %s (Ctrl-C ends it)", count, len(catalogue.cases), url)
        if not config.no_browser:
            threading.Timer(0.5, webbrowser.open, [url]).start()
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[sock])


def _open(config: ViewConfig) -> Catalogue:
    seeds = None if config.seed is None else computed_cases(config)
    if seeds and config.seed is not None:
        keep_freed_memory()
        seeds(config.seed)  # so that a size that is not possible is an error of the command
    return open_catalogue(
        [Path(slide) for slide in config.slides],
        overlays=[Path(overlay) for overlay in config.overlay],
        table=config.table,
        mpp=config.mpp,
        seeds=seeds,
        first_seed=config.seed,
    )


def computed_cases(config: ViewConfig) -> Callable[[int], Case]:
    """Return what computes the slide of a seed; all share their networks."""
    networks = Networks()

    def case(seed: int) -> Case:
        slide = SyntheticSlide(
            seed=seed,
            size=config.size,
            stages=config.stages,
            mpp=config.mpp or MPP,
            model=config.model,
            upscaler=config.upscaler,
            stain=config.stain,
            device=config.device,
            dtype=config.dtype,
            cache=SLIDE_CACHE,
            networks=networks,
        )
        ihc = {f"IHC-{marker}": stained for marker, stained in slide.ihc.items()}
        return computed_case(seed, {"HE": slide, **ihc})

    return case
