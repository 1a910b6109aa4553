# SPDX-License-Identifier: Apache-2.0
"""Files that are either complete or absent.

A file is first written under a temporary name in the folder of its destination, flushed to the
disk, and then renamed over the destination. A reader therefore sees the old content or the new
one, never a part, whether the program is killed, the machine stops or the disk runs full.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_WRITE_MODES = ("w", "wb", "wt")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """No room is left (full disk, quota or file size limit); nothing that existed was changed."""


class FileInUseError(OSError):
    """Another process holds the lock of a file."""


@contextlib.contextmanager
def explain_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns "no space left" errors of the body into a `DiskFullError` that names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno not in _NO_SPACE:
            raise
        raise DiskFullError(error.errno, _full_disk_message(Path(path), error)) from error


def _full_disk_message(path: Path, error: OSError) -> str:
    folder = path if path.is_dir() else path.parent
    try:
        free = f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free in {folder}"
    except OSError:
        free = f"free space in {folder} unknown"
    return f"cannot write {path}: {error.strerror} ({free}); the file was left as it was before"


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Flushes a folder's entries, so that a rename survives a power failure (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> None:
    """Moves `source` over `destination` (same file system) in one step and flushes the folder."""
    os.replace(source, destination)
    sync_directory(Path(destination).parent)


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    mode: str = "wb",
    *,
    encoding: str | None = None,
    newline: str | None = None,
) -> Iterator[IO[Any]]:
    """Opens `path` for writing; the content appears there only when the body ends well.

    Args:
      path: destination. If it is a link, the file that it points to is replaced. An existing file
        keeps its permissions.
      mode: "wb" (bytes) or "w" / "wt" (text, by default UTF-8 with untranslated line ends).
      encoding: text encoding; only in text mode.
      newline: as in `open`; only in text mode, "" (no translation) by default.

    Yields:
      An open file. It is flushed and synced to the disk before the rename.

    Raises:
      ValueError: another mode.
      FileNotFoundError: the folder does not exist.
      IsADirectoryError: `path` is a folder.
      DiskFullError: no room; the destination is unchanged.
    """
    if mode not in _WRITE_MODES:
        raise ValueError(f"atomic_write mode must be one of {_WRITE_MODES}, got {mode!r}")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: folder {target.parent} does not exist")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if "b" not in mode:
        encoding = encoding or "utf-8"
        newline = "" if newline is None else newline
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with explain_full_disk(path):
        try:
            with open(temporary, "x" + mode[1:], encoding=encoding, newline=newline) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            replace_file(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` atomically; errors as `atomic_write`."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` atomically as UTF-8; errors as `atomic_write`."""
    with atomic_write(path, "w") as file:
        file.write(text)


@contextlib.contextmanager
def exclusive_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds an advisory lock on the file `path` (created if needed) during the body.

    The system drops the lock when the process ends, however it ends, so a killed program leaves
    nothing to clean up. On systems without `fcntl` (Windows) no lock is taken.

    Raises:
      FileInUseError: another process holds the lock.
    """
    with open(path, "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"{path} is locked: another process is working on it"
                raise FileInUseError(error.errno, message) from error
        yield
