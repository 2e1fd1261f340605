"""Engines that make many slides: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from wsigen.corpus.gate import Gate
from wsigen.corpus.plan import Item
from wsigen.corpus.slides import make_slide
from wsigen.errors import InvalidValueError, WsigenError
from wsigen.pipeline.networks import Networks
from wsigen.runtime import keep_freed_memory

RETRIES = 3
"""Deaths of workers in a row, without a slide in between, after which an engine gives up."""

log = logging.getLogger(__name__)

_networks = Networks()  # of a worker: its slides share them
_device: str | None = None


Made = tuple[dict[str, Any], str]
"""Row of a slide, and why the gate refused it, or an empty string."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A slide to make.

    Args:
        item: the slide.
        folder: of the corpus.
        materialise: "all" or "none".
        threads: CPU threads.
        gate: that the slide must pass; None for none.
    """

    item: Item
    folder: Path
    materialise: str
    threads: int
    gate: Gate | None = field(default=None, compare=False)

    def __call__(self) -> Made:
        """Make it in this process; see `make_slide`."""
        torch.set_num_threads(self.threads)
        device = _device or self.item.config.device
        item = replace(self.item, config=replace(self.item.config, device=device))
        return make_slide(item, self.folder, self.materialise, _networks, self.gate)


Engine = Callable[[Sequence[Task]], Iterator[Made]]
"""Makes slides; yields them as they are finished."""


def in_process(tasks: Sequence[Task]) -> Iterator[Made]:
    """Make slides one after the other in this process."""
    threads = torch.get_num_threads()
    try:
        for task in tasks:
            yield task()
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, kw_only=True)
class LocalProcesses:
    """Several processes on this machine, each with a device of its own where there are several.

    A worker that dies (killed, out of memory) is replaced, and its slide continued from its state on disk.

    Args:
        workers: number of processes.
        devices: which they take in turn; empty for that of the configuration.
    """

    workers: int
    devices: Sequence[str] = ()

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Made]:
        """Make slides; see `Engine`.

        Raises:
            InvalidValueError: workers keep dying.
            WsigenError: that of the first slide that fails; others that were begun are finished before.
        """
        left, deaths = list(tasks), 0
        while left:
            try:
                for task, made in self._pool(left):
                    left.remove(task)
                    deaths = 0
                    yield made
            except BrokenProcessPool as error:  # noqa: PERF203
                deaths += 1
                if deaths > RETRIES:
                    raise InvalidValueError(
                        f"workers died {deaths} times in a row (killed, or out of memory?) while making "
                        f"{left[0].item.name} or the next; the same command with fewer --workers continues"
                    ) from error
                log.warning("a worker died; its slide is continued")

    def _pool(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Made]]:
        context = multiprocessing.get_context("spawn")  # CUDA cannot be used in forked processes
        devices = context.SimpleQueue()
        for i in range(self.workers):
            devices.put(self.devices[i % len(self.devices)] if self.devices else None)
        with _quiet_workers():
            pool = ProcessPoolExecutor(self.workers, context, _begin, (devices,))
            try:
                pending: dict[Future[Made], Task] = {pool.submit(task): task for task in tasks}
                while pending:
                    for done in wait(pending, return_when=FIRST_COMPLETED).done:
                        yield pending.pop(done), done.result()
            finally:
                pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class RayTasks:
    """Tasks of a Ray cluster, one for each slide, whose machines share the corpus's folder.

    A task whose worker or machine is lost runs again, on another one, and continues the slide.

    Args:
        address: of the cluster; None to start Ray on this machine.
        workers: CPUs that Ray may use on this machine, in workers; None for all of them.
        threads: CPUs of a worker.
        gpus: GPUs of a worker, on a cluster that has some; 0 for none.
    """

    address: str | None
    workers: int | None
    threads: int
    gpus: float

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Made]:
        """Make slides; see `Engine`.

        Raises:
            InvalidValueError: Ray is not installed, the cluster cannot be reached, or workers keep dying.
            WsigenError: that of the first slide that fails.
        """
        ray = _import_ray()
        started = not ray.is_initialized()
        if started:
            self._connect(ray)
        try:
            gpus = self.gpus if ray.cluster_resources().get("GPU") else 0
            options = {"num_cpus": self.threads, "num_gpus": gpus, "max_retries": RETRIES}
            remote = ray.remote(**options)(_run)
            gate = ray.put(tasks[0].gate)  # once, not with every task
            pending = {remote.remote(replace(task, gate=None), gate): task for task in tasks}
            while pending:
                (done,), _ = ray.wait(list(pending), num_returns=1)
                task = pending.pop(done)
                yield _result(ray, done, task)
        finally:
            if started:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        _check_reachable(self.address)
        cpus = None if self.workers is None or self.address else self.workers * self.threads
        env = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(self.threads)}
        try:
            ray.init(
                address=self.address,
                num_cpus=cpus,
                include_dashboard=None if self.address else False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env={"env_vars": env},
            )
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise _unreachable(self.address, error) from error


def _run(task: Task, gate: Gate | None) -> Made | WsigenError:
    """Make a slide in a Ray worker; user errors are returned, since a task that raises may be retried."""
    try:
        return replace(task, gate=gate)()
    except WsigenError as error:
        return error


def _result(ray: Any, done: Any, task: Task) -> Made:
    try:
        result = ray.get(done)
    except ray.exceptions.RayError as error:
        raise InvalidValueError(
            f"{task.item.name} could not be made: {_first_line(error)} (tried {RETRIES + 1} times); the same "
            "command continues"
        ) from error
    if isinstance(result, WsigenError):
        raise result
    return result


def _begin(devices: Any) -> None:
    """Prepare a worker process."""
    global _device
    _device = devices.get()
    keep_freed_memory()


@contextlib.contextmanager
def _quiet_workers() -> Iterator[None]:
    """Leave the terminal to this process's progress bar; workers read the variable when they start."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def _check_reachable(address: str | None) -> None:
    """Raise an `InvalidValueError` unless something listens at HOST:PORT; Ray itself waits for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str | None, error: BaseException) -> InvalidValueError:
    return InvalidValueError(
        f"--address {address}: no Ray cluster can be reached there ({_first_line(error)}); start one with "
        "`ray start --head`, or leave --address out"
    )


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InvalidValueError(
            "--engine ray needs Ray, which is not installed; pip install 'wsigen[ray]', or use --engine local"
        ) from error
    return ray


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
