"""The server: addresses, and who may ask. It reads only, and serves nothing but what was named.

| address | what |
|---|---|
| ``/`` | the page |
| ``/static/FILE`` | its script, style and library |
| ``/catalogue.json``, ``?seed=N`` | cases, slides and failures |
| ``/slides/NAME.dzi`` | DeepZoom descriptor of a slide |
| ``/slides/NAME_files/LEVEL/X_Y.jpeg`` | its tiles |
| ``/slides/NAME.dab.png`` | heat map of its DAB, where it is an IHC slide in a file |
| ``/overlays/NAME/TITLE`` | its annotations |
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from wsigen.arrays import ArrayCache
from wsigen.errors import WsigenError
from wsigen.runtime import usable_cpus
from wsigen.viewer.catalogue import Catalogue, Entry
from wsigen.viewer.http import LIBRARY, Guard, check_installed, refuse, static_routes

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

STATIC = ("index.html", "viewer.css", "viewer.js", *LIBRARY)
_TILE = re.compile(r"(\d{1,7})_(\d{1,7})\.jpe?g", re.ASCII)
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
_KEEP = {"Cache-Control": "private, max-age=86400, immutable"}  # of addresses that name a version

log = logging.getLogger(__name__)

T = TypeVar("T")


class Pages:
    """What the server answers.

    Args:
        catalogue: of the slides.
        cache: bytes of encoded tiles that are kept.

    Memory: the cache, and the tiles that are read at the same time: two a CPU, one of computed slides.
    """

    def __init__(self, catalogue: Catalogue, cache: int) -> None:
        self._catalogue, self._cache = catalogue, ArrayCache(cache)
        self._reading = asyncio.Semaphore(2 * usable_cpus())
        self._computing = asyncio.Semaphore(1)

    async def catalogue(self, request: Request) -> Response:
        """Return cases, slides and failures."""
        from starlette.responses import JSONResponse

        seed = request.query_params.get("seed")
        if seed is not None and (not _NUMBER.fullmatch(seed) or int(seed) >= 2**63):
            return refuse(400, f"seed must be between 0 and 2**63, got {seed[:30]!r}")
        describe = partial(self._catalogue.describe, None if seed is None else int(seed))
        try:
            return JSONResponse(await _in_thread(describe), headers={"Cache-Control": "no-store"})
        except WsigenError as error:
            return refuse(500, str(error))

    async def dzi(self, request: Request) -> Response:
        """Return the descriptor of a slide."""
        from starlette.responses import Response

        entry = await self._entry(request)
        if entry is None:
            return refuse(404, "no such slide")
        return Response(entry.tiles.dzi, media_type="application/xml")

    async def tile(self, request: Request) -> Response:
        """Return a tile of a slide."""
        entry, level = await self._entry(request), request.path_params["level"]
        place = _TILE.fullmatch(request.path_params["tile"])
        if entry is None:
            return refuse(404, "no such slide")
        if not place or not re.fullmatch(r"\d{1,2}", level, re.ASCII):
            return refuse(404, "a tile is LEVEL/X_Y.jpeg")
        at = int(level), int(place[1]), int(place[2])
        if not entry.tiles.region(*at):
            return refuse(404, f"no such tile; levels are 0 to {entry.tiles.top}")
        return await self._image(request, entry, f"tile {at}", "jpeg", partial(entry.tiles.read, *at))

    async def heatmap(self, request: Request) -> Response:
        """Return the heat map of a slide."""
        entry = await self._entry(request)
        if entry is None or entry.heatmap is None:
            return refuse(
                404, "no such slide" if entry is None else "only IHC slides in files have a heat map"
            )
        return await self._image(request, entry, "heat map", "png", entry.heatmap.png)

    async def overlay(self, request: Request) -> Response:
        """Return the annotations of a slide."""
        from starlette.responses import JSONResponse

        found = self._catalogue.overlays.get((request.path_params["name"], request.path_params["title"]))
        return refuse(404, "no such overlay") if found is None else JSONResponse(found)

    async def _image(
        self, request: Request, entry: Entry, what: str, kind: str, make: Callable[[], bytes]
    ) -> Response:
        """Return an image of a slide, "jpeg" or "png", which is made where it is not kept."""
        from starlette.responses import Response

        try:
            data = await self._kept(request, entry, what, make)
        except WsigenError as error:
            log.warning("%s: %s: %s", entry.title, what, error)
            return refuse(500, str(error))
        if data is None:
            return refuse(499, "nobody waits for it any more")
        return Response(data, media_type=f"image/{kind}", headers=_KEEP)

    async def _kept(
        self, request: Request, entry: Entry, what: str, make: Callable[[], bytes]
    ) -> bytes | None:
        """Return an image; None if the client has gone before its turn came."""
        key = (entry.name, entry.version, what)
        if (kept := self._cache.get(key)) is not None:
            return kept.tobytes()
        async with self._computing if entry.computed else self._reading:
            if (kept := self._cache.get(key)) is not None:  # another asked for it meanwhile
                return kept.tobytes()
            if await request.is_disconnected():
                return None
            data = await _in_thread(make)
        self._cache.put(key, np.frombuffer(data, np.uint8))
        return data

    async def _entry(self, request: Request) -> Entry | None:
        name = request.path_params["name"]
        return (
            await _in_thread(partial(self._catalogue.entry, name))
            if ":" in name
            else self._catalogue.entry(name)
        )


def make_app(catalogue: Catalogue, *, host: str = "127.0.0.1", cache: int = 256 << 20) -> ASGIApp:
    """Return the application.

    Args:
        catalogue: of the slides to serve.
        host: address that it will listen on, which its Host header must name.
        cache: bytes of encoded tiles that are kept.

    Raises:
        InvalidValueError: the extra ``view`` is not installed.
    """
    check_installed()
    from starlette.applications import Starlette
    from starlette.routing import Route

    pages = Pages(catalogue, cache)
    app = Starlette(
        routes=[
            *static_routes("wsigen.viewer", STATIC),
            Route("/catalogue.json", pages.catalogue),
            Route("/slides/{name}.dzi", pages.dzi),
            Route("/slides/{name}.dab.png", pages.heatmap),
            Route("/slides/{name}_files/{level}/{tile}", pages.tile),
            Route("/overlays/{name}/{title}", pages.overlay),
        ]
    )
    return Guard(app, host)


async def _in_thread(read: Callable[[], T]) -> T:
    return await asyncio.to_thread(read)
