"""Run the viewer for the command, until it is interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from wsigen.config.view import ViewConfig
from wsigen.runtime import keep_freed_memory, parse_bytes
from wsigen.viewer.catalogue import Case, Catalogue, computed_case, open_catalogue
from wsigen.viewer.http import address, check_installed, listen, serve
from wsigen.viewer.server import make_app

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
    check_installed()
    with listen(config.host, config.port) as sock:
        catalogue = _open(config)
        app = make_app(catalogue, host=config.host, cache=parse_bytes(config.cache, "--cache"))
        count = sum(len(case.entries) for case in catalogue.cases)
        log.info("%d slides in %d cases at %s (Ctrl-C ends it)", count, len(catalogue.cases), address(sock))
        serve(app, sock, browser=not config.no_browser)


def _open(config: ViewConfig) -> Catalogue:
    if config.seed is not None:
        keep_freed_memory()
    catalogue = open_catalogue(
        [Path(slide) for slide in config.slides],
        overlays=[Path(overlay) for overlay in config.overlay],
        table=config.table,
        mpp=config.mpp,
        seeds=None if config.seed is None else computed_cases(config),
        first_seed=config.seed,
    )
    if config.seed is not None:
        catalogue.seed_case(config.seed)  # so that a size that is not possible is an error of the command
    return catalogue


def computed_cases(config: ViewConfig) -> Callable[[int], Case]:
    """Return what computes the slide of a seed; all share their networks."""
    from wsigen.pipeline.networks import Networks  # imports torch, which slides in files do not need
    from wsigen.pipeline.synthetic import SyntheticSlide

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
