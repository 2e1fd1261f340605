"""The server: addresses, and who may ask. It reads only, and serves nothing but what was named.

| address | what |
|---|---|
| ``/`` | the page |
| ``/static/FILE`` | its script, style and library |
| ``/catalogue.json``, ``?seed=N`` | cases, slides and failures |
| ``/slides/NAME.dzi`` | DeepZoom descriptor of a slide |
| ``/slides/NAME_files/LEVEL/X_Y.jpeg`` | its tiles |
| ``/overlays/NAME/TITLE`` | its annotations |
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import socket
from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from wsigen.arrays import ArrayCache
from wsigen.errors import InvalidValueError, WsigenError
from wsigen.runtime import usable_cpus
from wsigen.viewer.catalogue import Catalogue, Entry

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send
    from uvicorn import Server

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WILDCARDS = ("0.0.0.0", "::")
_TILE = re.compile(r"(\d{1,7})_(\d{1,7})\.jpe?g", re.ASCII)
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
_STATIC = {
    "index.html": "text/html; charset=utf-8",
    "viewer.css": "text/css; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "openseadragon.min.js": "text/javascript; charset=utf-8",
    "openseadragon.LICENSE.txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    # The page needs nothing from elsewhere, and pages from elsewhere get nothing from here, but a notebook on
    # this machine may frame it.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_KEEP = {"Cache-Control": "private, max-age=86400, immutable"}  # of addresses that name a version

log = logging.getLogger(__name__)

T = TypeVar("T")


class Guard:
    """Answer only those who asked for this server by its name, and only questions that change nothing.

    A page from elsewhere can make a browser ask here by a name that it points to this machine (DNS
    rebinding); its Host header then has that name.

    Args:
        app: to protect.
        host: address that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._any_address = app, host in _WILDCARDS
        self._names = {*_LOOPBACK, host.lower()}
        if self._any_address:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on to the application."""
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        host = Headers(scope=scope).get("host", "")
        if not self._is_known(host):
            response = PlainTextResponse(f"unknown host {host[:99]!r}; use the address it printed", 421)
            await response(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            response = PlainTextResponse("read only", 405, {"Allow": "GET, HEAD"})
            await response(scope, receive, send)
            return

        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)  # pyright: ignore[reportArgumentType]

    def _is_known(self, host: str) -> bool:
        match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::\d+)?|([^:\[\]]+)(?::\d+)?", host)
        name = (match[1] or match[2]).lower().rstrip(".") if match else ""
        return name in self._names or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Pages:
    """What the server answers.

    Args:
        catalogue: of the slides.
        cache: bytes of encoded tiles that are kept.

    Memory: the cache, and the tiles that are read at the same time: two a CPU, one of computed slides.
    """

    def __init__(self, catalogue: Catalogue, cache: int) -> None:
        self._catalogue, self._cache = catalogue, ArrayCache(cache)
        self._static = {name: _packaged(name) for name in _STATIC}
        self._reading = asyncio.Semaphore(2 * usable_cpus())
        self._computing = asyncio.Semaphore(1)

    async def page(self, _: Request) -> Response:
        """Return the page."""
        return self._file("index.html")

    async def static(self, request: Request) -> Response:
        """Return a part of the page."""
        return self._file(request.path_params["file"])

    async def catalogue(self, request: Request) -> Response:
        """Return cases, slides and failures."""
        from starlette.responses import JSONResponse

        seed = request.query_params.get("seed")
        if seed is not None and (not _NUMBER.fullmatch(seed) or int(seed) >= 2**63):
            return _refuse(400, f"seed must be between 0 and 2**63, got {seed[:30]!r}")
        describe = partial(self._catalogue.describe, None if seed is None else int(seed))
        try:
            return JSONResponse(await _in_thread(describe), headers={"Cache-Control": "no-store"})
        except WsigenError as error:
            return _refuse(500, str(error))

    async def dzi(self, request: Request) -> Response:
        """Return the descriptor of a slide."""
        from starlette.responses import Response

        entry = await self._entry(request)
        if entry is None:
            return _refuse(404, "no such slide")
        return Response(entry.tiles.dzi, media_type="application/xml")

    async def tile(self, request: Request) -> Response:
        """Return a tile of a slide."""
        from starlette.responses import Response

        entry, level = await self._entry(request), request.path_params["level"]
        place = _TILE.fullmatch(request.path_params["tile"])
        if entry is None:
            return _refuse(404, "no such slide")
        if not place or not re.fullmatch(r"\d{1,2}", level, re.ASCII):
            return _refuse(404, "a tile is LEVEL/X_Y.jpeg")
        at = int(level), int(place[1]), int(place[2])
        if not entry.tiles.region(*at):
            return _refuse(404, f"no such tile; levels are 0 to {entry.tiles.top}")
        try:
            data = await self._tile(request, entry, at)
        except WsigenError as error:
            log.warning("%s: tile %s: %s", entry.title, at, error)
            return _refuse(500, str(error))
        if data is None:
            return _refuse(499, "nobody waits for it any more")
        return Response(data, media_type="image/jpeg", headers=_KEEP)

    async def overlay(self, request: Request) -> Response:
        """Return the annotations of a slide."""
        from starlette.responses import JSONResponse

        found = self._catalogue.overlays.get((request.path_params["name"], request.path_params["title"]))
        return _refuse(404, "no such overlay") if found is None else JSONResponse(found)

    async def _tile(self, request: Request, entry: Entry, at: tuple[int, int, int]) -> bytes | None:
        """Return a tile; None if the client has gone before its turn came."""
        key = (entry.name, entry.version, at)
        if (kept := self._cache.get(key)) is not None:
            return kept.tobytes()
        async with self._computing if entry.computed else self._reading:
            if (kept := self._cache.get(key)) is not None:  # another asked for it meanwhile
                return kept.tobytes()
            if await request.is_disconnected():
                return None
            data = await _in_thread(partial(entry.tiles.read, *at))
        self._cache.put(key, np.frombuffer(data, np.uint8))
        return data

    async def _entry(self, request: Request) -> Entry | None:
        name = request.path_params["name"]
        return (
            await _in_thread(partial(self._catalogue.entry, name))
            if ":" in name
            else self._catalogue.entry(name)
        )

    def _file(self, name: str) -> Response:
        from starlette.responses import Response

        if name not in self._static:
            return _refuse(404, "no such file")
        headers = {"Cache-Control": "no-cache"}
        return Response(self._static[name], headers=headers, media_type=_STATIC[name])


def check_installed() -> None:
    """Raise unless the extra ``view`` is installed.

    Raises:
        InvalidValueError: it is not.
    """
    try:
        import starlette.applications  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InvalidValueError(
            "the viewer needs starlette and uvicorn: pip install 'wsigen[view]'"
        ) from error


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
            Route("/", pages.page),
            Route("/static/{file}", pages.static),
            Route("/catalogue.json", pages.catalogue),
            Route("/slides/{name}.dzi", pages.dzi),
            Route("/slides/{name}_files/{level}/{tile}", pages.tile),
            Route("/overlays/{name}/{title}", pages.overlay),
        ]
    )
    return Guard(app, host)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InvalidValueError: the port is taken, or the host is no address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.create_server((host, port), family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0  # negative for names that cannot be resolved
        why = os.strerror(number) if number > 0 else error
        raise InvalidValueError(
            f"cannot listen on --host {host} --port {port} ({why}); choose another --port, or --port 0 for a "
            "free one"
        ) from error
    # Inherited by connections. asyncio sets it only where the protocol is given by number, and without it a
    # tile on a kept connection waits 40 ms for the client to acknowledge the headers.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def address(sock: socket.socket) -> str:
    """Return the URL of a socket that listens; that of this machine where it listens on all addresses."""
    host, port = sock.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(app: ASGIApp) -> Server:
    """Return a server for an application; ``run(sockets=[…])`` starts it."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


async def _in_thread(read: Callable[[], T]) -> T:
    return await asyncio.to_thread(read)


def _refuse(status: int, why: str) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(why, status, {"Cache-Control": "no-store"})


def _packaged(name: str) -> bytes:
    return (resources.files("wsigen.viewer") / "static" / name).read_bytes()
