"""Run the viewer: for the command until it is interrupted, for a notebook beside it."""

from __future__ import annotations

import contextlib
import html
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


class Viewing:
    """A viewer that runs beside a notebook; shown as a frame in its cell.

    Args:
        catalogue: of the slides to serve.
        height: of the frame in pixels.

    Raises:
        InvalidValueError: the extra ``view`` is not installed.
    """

    def __init__(self, catalogue: Catalogue, height: int = 640) -> None:
        self._height, self._socket = height, listen("127.0.0.1", 0)
        self._server = make_server(make_app(catalogue))
        self.url = address(self._socket)
        how = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=how, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(5)
        self._socket.close()

    def _repr_html_(self) -> str:
        url, how = html.escape(self.url), f'width="100%" height="{self._height}" style="border:0"'
        return f'<iframe src="{url}" {how} allowfullscreen></iframe><a href="{url}" target="_blank">{url}</a>'

    def __repr__(self) -> str:
        return f"Viewing({self.url!r})"


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
