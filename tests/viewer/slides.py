"""Slides for tests of the viewer, and a client that asks the application without a network."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from tests.synthetic import write_tiff
from wsigen.slide.provenance import complete_provenance, provenance_json


class Answer(NamedTuple):
    """Status, headers in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    app: Any,
    path: str,
    *,
    host: str = "127.0.0.1:8765",
    method: str = "GET",
    body: bytes = b"",
    content_type: str = "application/json",
) -> Answer:
    """Ask an ASGI application; the path is sent as it is, not made tidy as clients would."""
    plain, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(plain),
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", host.encode()), (b"content-type", content_type.encode())],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 8765),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    sent: list[dict[str, Any]] = []
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(asked, None) or await asyncio.Event().wait()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:]))


def write_pair(
    folder: Path, he: np.ndarray, mpp: float = 0.25, name: str = "case", **how: Any
) -> tuple[Path, Path]:
    """An H&E slide and its IHC slide, the negative of it, with provenance as wsigen writes it."""
    paths = folder / f"{name}_HE.ome.tif", folder / f"{name}_IHC-SYN.ome.tif"
    source = {
        "source": {"slide": paths[0].name, "fingerprint": "aaaa"},
        "marker": "SYN",
        "notice": "synthetic stain",
    }
    for path, image, facts in zip(
        paths,
        (he, 255 - he),
        ({"seed": 7, "fingerprint": "aaaa"}, {**source, "fingerprint": "bbbb"}),
        strict=True,
    ):
        write_tiff(path, image, mpp, **{"levels": 2, **how})
        whole = complete_provenance(facts, mpp, *image.shape[:2])
        (folder / path.name.replace(".ome.tif", ".json")).write_bytes(provenance_json(whole))
    return paths
