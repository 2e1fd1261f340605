"""What servers of this package share: who may ask, static files, sockets, and serving until interrupted."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from importlib import resources
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from wsigen.errors import InvalidValueError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send
    from uvicorn import Server

LIBRARY = ("openseadragon.min.js", "openseadragon.LICENSE.txt")
READ = ("GET", "HEAD")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WILDCARDS = ("0.0.0.0", "::")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
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


class Guard:
    """Answer only those who asked for this server by its name, and only by the methods that it has.

    A page from elsewhere can make a browser ask here by a name that it points to this machine (DNS
    rebinding); its Host header then has that name.

    Args:
        app: to protect.
        host: address that the server listens on.
        methods: of HTTP that are allowed; by default those that change nothing.
    """

    def __init__(self, app: ASGIApp, host: str, methods: Sequence[str] = READ) -> None:
        self._app, self._any_address, self._methods = app, host in _WILDCARDS, methods
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
        if scope["method"] not in self._methods:
            allowed = ", ".join(self._methods)
            response = PlainTextResponse(f"only {allowed}", 405, {"Allow": allowed})
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


def static_routes(package: str, names: Sequence[str]) -> list[Route]:
    """Return the routes of a page, ``/``, and of its parts, ``/static/FILE``: these files and no other.

    Args:
        package: that has them in its folder ``static``; those of `LIBRARY` are the viewer's.
        names: of the files; the first is the page.
    """
    from starlette.routing import Route

    files = {name: _packaged("wsigen.viewer" if name in LIBRARY else package, name) for name in names}

    async def page(_: Request) -> Response:
        return send(names[0])

    async def part(request: Request) -> Response:
        return send(request.path_params["file"])

    def send(name: str) -> Response:
        from starlette.responses import Response

        if name not in files:
            return refuse(404, "no such file")
        kind = _TYPES[PurePosixPath(name).suffix]
        return Response(files[name], headers={"Cache-Control": "no-cache"}, media_type=kind)

    return [Route("/", page), Route("/static/{file}", part)]


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
            "the server needs starlette and uvicorn: pip install 'wsigen[view]'"
        ) from error


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


def serve(app: ASGIApp, sock: socket.socket, *, browser: bool) -> None:
    """Serve an application until the command is interrupted.

    Args:
        app: to serve.
        sock: that listens.
        browser: open its page, where a browser can open a window.
    """
    if browser and _has_screen():
        threading.Timer(0.5, webbrowser.open, [address(sock)]).start()
    with contextlib.suppress(KeyboardInterrupt):
        make_server(app).run(sockets=[sock])


def _has_screen() -> bool:
    """Return whether a browser can open a window; without one, Linux would open a text browser here."""
    on_linux = sys.platform.startswith("linux")
    return not on_linux or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def refuse(status: int, why: str) -> Response:
    """Return an answer that says why there is none."""
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(why, status, {"Cache-Control": "no-store"})


def _packaged(package: str, name: str) -> bytes:
    return (resources.files(package) / "static" / name).read_bytes()
