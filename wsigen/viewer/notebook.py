"""A viewer that runs beside a notebook."""

from __future__ import annotations

import html
import threading

from wsigen.viewer.catalogue import Catalogue
from wsigen.viewer.http import address, listen, make_server
from wsigen.viewer.server import make_app


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
