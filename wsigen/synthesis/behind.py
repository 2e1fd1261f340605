"""Writing in a thread, while the network goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Behind:
    """Runs calls in order in one thread, each beside what the caller does next.

    An error of a call is raised by the next `run`, by `wait`, or at the end of the ``with`` block, which
    never ends before the last call has.

    Memory: what one call holds; the next has to wait for it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "wsigen-write")
        self._running: Future[None] | None = None

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self.wait()

    def run(self, call: Callable[[], None]) -> None:
        """Run a call once the one before it has ended well."""
        self.wait()
        self._running = self._pool.submit(call)

    def wait(self) -> None:
        """Wait for the last call."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
