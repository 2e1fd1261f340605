"""Write files atomically: temporary name, fsync, rename.

Errors of the disk (full, read-only, no permission) become an `OutputError` that names the path, the free
space and the fix; an existing file of the final name stays unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from wsigen.errors import OutputError
from wsigen.runtime import format_bytes

TEMPORARY_SUFFIX = ".tmp"

_FIXES = {
    errno.ENOSPC: "make room or choose a folder on another disk",
    errno.EDQUOT: "your quota is used up: make room or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EFBIG: "the file system does not support files this large: choose another folder",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
    errno.EISDIR: "this is a folder: choose another name",
    errno.EEXIST: "this is a file and a folder is needed: choose another name",
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(path: Path) -> int | None:
    """Return the bytes that an ordinary user may still write on the disk of ``path``.

    Args:
        path: a file or folder, which need not exist yet.

    Returns:
        The number of bytes, or None if unknown.
    """
    folder = path.absolute()
    with contextlib.suppress(OSError):
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
    return None


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the error to raise when the operating system refuses to write ``path``.

    Args:
        path: that was being written.
        error: of the operating system.
    """
    what = os.strerror(error.errno).lower() if error.errno else str(error)
    fix = _FIXES.get(error.errno or 0, "check the disk, then run the same command again")
    free = free_bytes(path)
    if error.errno in _DISK_FULL and free is not None:
        what = f"{what}, {format_bytes(free)} free"
        fix = f"{fix}, then run the same command again to resume"
    return OutputError(path, f"cannot be written ({what}); {fix}")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into an `OutputError` about ``path``."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents, where missing.

    Raises:
        OutputError: it cannot be created.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def only_process(folder: Path, taken: str) -> Iterator[None]:
    """Lock ``folder`` against other processes; the system releases the lock if this one dies.

    Args:
        folder: created if missing; contains the file ``lock`` afterwards.
        taken: message if another process holds the lock, with the fix.

    Raises:
        OutputError: another process holds the lock, or the folder cannot be written to.
    """
    make_folder(folder)
    lock = FileLock(folder / "lock", timeout=0)
    with disk_errors(folder):
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(folder, taken) from error
    try:
        yield
    finally:
        lock.release()


def temporary_name(path: Path) -> Path:
    """Return the name, in the same folder, under which ``path`` is written until it is complete."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable. Does nothing where a folder cannot be opened (Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of ``path`` durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name; on success, sync that file and rename it to ``path``.

    After any exception the temporary file is removed and ``path`` is unchanged.

    Args:
        path: the final name; its folder is created if missing.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to.
    """
    make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        with disk_errors(path):
            yield temporary
            sync_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file atomically.

    Args:
        path: the final name.
        data: its whole content.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
