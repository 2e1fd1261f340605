"""The server of a study: each reader's next item, its images, and the answers.

| address | what |
|---|---|
| ``/`` | the page |
| ``/static/FILE`` | its script, style and library |
| ``GET /readers/CODE`` | kind and questions of the study, and how far the reader is |
| ``GET /readers/CODE/item`` | the next item, without what is right |
| ``GET /readers/CODE/images/IMAGE.png`` | an image of that item, and of no other |
| ``POST /readers/CODE/answers`` | the answer; it is on disk before this returns |

No route reads the key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from wsigen.config.study import StudyServeConfig
from wsigen.errors import InvalidValueError, WsigenError
from wsigen.files import only_process
from wsigen.study.automatic import SERVED
from wsigen.study.store import AnswerStore
from wsigen.study.study import IMAGES, WITH_SOURCE, Study, load_study
from wsigen.viewer.http import (
    LIBRARY,
    READ,
    Guard,
    address,
    check_installed,
    listen,
    refuse,
    serve,
    static_routes,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

STATIC = ("index.html", "study.css", "study.js", *LIBRARY)
MOST_BYTES = 4096  # of an answer
_FRESH = {"Cache-Control": "no-store"}

log = logging.getLogger(__name__)

T = TypeVar("T")


def serve_study(config: StudyServeConfig) -> None:
    """Serve a study until the command is interrupted.

    Raises:
        PathError: there is no study in the folder, or it is of another version.
        InvalidValueError: the port is taken, or the extra ``view`` is not installed.
        OutputError: another process serves it, or the answers cannot be written.
    """
    check_installed()
    study = load_study(config.study)
    with only_process(config.study, SERVED), listen(config.host, config.port) as sock:
        store = AnswerStore(study)
        try:
            done = sum(store.progress(reader)[0] for reader in study.readers)
            log.info("%s, %d answers so far", study.describe(), done)
            log.info("readers go to %s with a code of readers.csv (Ctrl-C ends it)", address(sock))
            serve(make_app(study, store, host=config.host), sock, browser=not config.no_browser)
        finally:
            store.close()


def make_app(study: Study, store: AnswerStore, *, host: str = "127.0.0.1") -> ASGIApp:
    """Return the application.

    Args:
        study: to serve.
        store: of its answers.
        host: address that it will listen on, which its Host header must name.

    Raises:
        InvalidValueError: the extra ``view`` is not installed.
    """
    check_installed()
    from starlette.applications import Starlette
    from starlette.routing import Route

    pages = Pages(study, store)
    app = Starlette(
        routes=[
            *static_routes("wsigen.study", STATIC),
            Route("/readers/{reader}", pages.reader),
            Route("/readers/{reader}/item", pages.item),
            Route("/readers/{reader}/images/{image}.png", pages.image),
            Route("/readers/{reader}/answers", pages.answer, methods=["POST"]),
        ]
    )
    return Guard(app, host, (*READ, "POST"))


class Pages:
    """What the server answers.

    Args:
        study: to serve.
        store: of its answers.
    """

    def __init__(self, study: Study, store: AnswerStore) -> None:
        self._study, self._store = study, store

    async def reader(self, request: Request) -> Response:
        """Return what a reader is asked, and how many items are done."""
        study = self._study

        def describe(reader: str) -> dict[str, Any]:
            done, total = self._store.progress(reader)
            facts = {"kind": study.kind, "questions": study.questions, "seconds": study.seconds}
            return {**facts, "mpp": study.mpp, "done": done, "total": total, "training": len(study.training)}

        return await self._answered(request, describe)

    async def item(self, request: Request) -> Response:
        """Return a reader's next item; its number is null at the end."""

        def show(reader: str) -> dict[str, Any]:
            trial = self._store.show(reader)
            done, total = self._store.progress(reader)
            if trial is None:
                return {"number": None, "done": done, "total": total}
            source = trial.item.images[0] if self._study.kind in WITH_SOURCE else None
            facts = {"number": trial.number, "training": trial.training, "done": done, "total": total}
            return {**facts, "choices": trial.choices, "source": source}

        return await self._answered(request, show)

    async def image(self, request: Request) -> Response:
        """Return an image of the item that the reader is at."""
        from starlette.responses import Response

        reader, image = request.path_params["reader"], request.path_params["image"]
        try:
            trial = await _in_thread(partial(self._store.trial, reader))
        except WsigenError as error:
            return refuse(404, str(error))
        if trial is None or image not in trial.item.images:
            return refuse(404, "no such image in the item that is shown")
        path = self._study.folder / IMAGES / f"{image}.png"
        try:
            data = await _in_thread(path.read_bytes)
        except OSError:
            log.error("%s: an image of the study is missing; put it back", path)
            return refuse(500, "this image is missing; tell whoever runs the study")
        # Not as a file, whose time and tag would tell which images were made first: the real ones.
        return Response(data, media_type="image/png", headers=_FRESH)

    async def answer(self, request: Request) -> Response:
        """Store an answer; of training items, return what is right."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return refuse(415, "answers are application/json")  # which forms of other pages cannot send
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return refuse(413, f"an answer has at most {MOST_BYTES} bytes")
        try:
            sent = json.loads(body)
            number, value, seconds = sent["number"], sent["value"], float(sent["seconds"])
        except (ValueError, TypeError, KeyError):
            return refuse(400, "an answer is an object of number, value and seconds")
        if not isinstance(number, int) or not (math.isfinite(seconds) and seconds >= 0):
            return refuse(400, "number must be whole, and seconds 0 or more")

        def add(reader: str) -> dict[str, Any]:
            trial = self._store.add(reader, number, value, seconds)
            return {"solution": trial.item.solution} if trial.training else {}

        return await self._answered(request, add)

    async def _answered(self, request: Request, work: Callable[[str], dict[str, Any]]) -> Response:
        from starlette.responses import JSONResponse

        reader = request.path_params["reader"]
        try:
            return JSONResponse(await _in_thread(partial(work, reader)), headers=_FRESH)
        except InvalidValueError as error:
            return refuse(404 if reader not in self._study.readers else 409, str(error))
        except WsigenError as error:
            log.error("%s", error)
            return refuse(500, "the answer cannot be stored; tell whoever runs the study")


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
