# SPDX-License-Identifier: Apache-2.0
"""Compiles `_native.c` on demand with the system's C compiler and calls it through ctypes.

The shared library is kept in a cache folder of the user, named after the digest of the source and
of the compiler command, and is put there atomically. ctypes drops the interpreter lock during
calls, so threads run in parallel. Nothing is compiled at install time.

Environment variables:
    RWKVJAX_NATIVE: 0 never uses compiled code; 1 makes its absence an error; unset or empty uses
        it when possible, and logs once when not.
    RWKVJAX_CACHE: folder for the library instead of ``$XDG_CACHE_HOME/rwkvjax`` or
        ``~/.cache/rwkvjax``.
    CC: compiler command instead of ``cc``.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np

from core.files import replace_file
from rwkvjax.tokenizers.double_array import DoubleArray
from rwkvjax.tokenizers.vocab import Vocabulary

_SOURCE = Path(__file__).with_name("_native.c")
_FLAGS = ("-std=c99", "-O3", "-shared", "-fPIC")  # no -march: home folders are shared by machines
_ABI = 1
_COMPILE_SECONDS = 120
_SCRATCH_IDS = 1 << 14  # 32 KiB a thread

_log = logging.getLogger(__name__)


class NativeUnavailableError(RuntimeError):
    """The compiled encoder was asked for but cannot be had; the message says why."""


def use_native(wanted: bool | None = None) -> bool:
    """Decides between the compiled and the NumPy path.

    Args:
        wanted: True demands compiled code, False refuses it, None asks `RWKVJAX_NATIVE`.

    Raises:
        NativeUnavailableError: demanded, but it cannot be compiled or loaded.
        ValueError: `RWKVJAX_NATIVE` is neither 0, 1 nor empty.
    """
    if wanted is None:
        switch = os.environ.get("RWKVJAX_NATIVE", "")
        if switch not in ("", "0", "1"):
            raise ValueError(f"RWKVJAX_NATIVE must be 0, 1 or empty, got {switch!r}")
        wanted = {"": None, "0": False, "1": True}[switch]
    if wanted is False:
        return False
    problem = native_problem()
    if problem and wanted:
        raise NativeUnavailableError(f"no compiled tokenizer: {problem}")
    if problem:
        _log_once(f"tokenizing with NumPy, about ten times slower than compiled code: {problem}")
    return not problem


def native_problem() -> str:
    """Why there is no compiled path on this machine; empty if there is one."""
    return _load()[1]


class NativeCoder:
    """The compiled encoder and decoder with the addresses of one vocabulary's tables.

    Asking an array for its address costs as much as encoding a hundred bytes, so addresses are
    taken once, and short texts share one output buffer per thread.
    """

    def __init__(self, table: DoubleArray, vocabulary: Vocabulary):
        library, problem = _load()
        if library is None:
            raise NativeUnavailableError(f"no compiled tokenizer: {problem}")
        self._encode, self._decode = library.rwkvjax_encode, library.rwkvjax_decode
        # Holding the arrays keeps the addresses valid.
        self._arrays = (table.roots, table.slots, table.single, vocabulary.data, vocabulary.offsets)
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in self._arrays]
        self._tables, self._tokens = addresses[:3], addresses[3:]
        self._scratch = threading.local()

    def encode(self, data: bytes) -> np.ndarray:
        """Same as `greedy.encode_numpy`: bytes [n] -> ids [N] uint16."""
        size = len(data)
        if size > _SCRATCH_IDS:
            return self.encode_at(data, size)
        try:
            out, address = self._scratch.buffer
        except AttributeError:  # first call of this thread
            out = np.empty(_SCRATCH_IDS, np.uint16)
            address = ctypes.c_void_p(out.ctypes.data)
            self._scratch.buffer = out, address
        return out[: self._encode(data, size, *self._tables, address)].copy()

    def encode_at(self, start: int | bytes, size: int) -> np.ndarray:
        """Encodes `size` bytes at an address (kept alive by the caller) or of an object."""
        out = np.empty(size, np.uint16)
        count = self._encode(start, size, *self._tables, out.ctypes.data)
        return out[:count].copy()  # pages of `out` that were never written cost no memory

    def decode(self, ids: np.ndarray, size: int) -> bytes:
        """Joins the bytes of ids [N] uint16, contiguous and checked, `size` bytes in all."""
        out = np.empty(size, np.uint8)
        self._decode(ids.ctypes.data, ids.size, *self._tokens, out.ctypes.data)
        return out.tobytes()


def cache_folder() -> Path:
    """Folder for compiled libraries; see the module's docstring."""
    named = os.environ.get("RWKVJAX_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rwkvjax"


@functools.cache
def _log_once(message: str) -> None:
    _log.warning(message)


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """(library, "") or (None, what went wrong)."""
    try:
        command = _compiler()
        path = _library_path(command)
        _private_folder(path.parent)
        if not path.exists():
            _compile(command, path)
        try:
            return _open(path), ""
        except (OSError, AttributeError):  # a damaged or foreign file: once more from the source
            _compile(command, path)
            return _open(path), ""
    except (OSError, AttributeError, RuntimeError, ValueError) as error:
        return None, str(error)


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise NativeUnavailableError(f"there is no C compiler {command[0]!r}")
    return command + list(_FLAGS)


def _library_path(command: list[str]) -> Path:
    key = hashlib.sha256(_SOURCE.read_bytes())
    key.update(repr((command, platform.system(), platform.machine(), _ABI)).encode())
    return cache_folder() / f"tokenizer-{key.hexdigest()[:32]}.so"


def _private_folder(folder: Path) -> None:
    """Makes the folder; refuses one that others can write to, since its content gets loaded."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise NativeUnavailableError(f"others can write to the cache folder {folder}")


def _compile(command: list[str], path: Path) -> None:
    """Compiles into a temporary folder next to `path`, then moves the result there."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        try:
            subprocess.run(
                [*command, str(_SOURCE), "-o", str(made)],
                check=True,
                capture_output=True,
                text=True,
                timeout=_COMPILE_SECONDS,
            )
        except subprocess.CalledProcessError as error:
            raise NativeUnavailableError(f"{command[0]} failed: {error.stderr[-400:]}") from None
        except subprocess.TimeoutExpired:
            raise NativeUnavailableError(f"{command[0]} took over {_COMPILE_SECONDS} s") from None
        replace_file(made, path)


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.rwkvjax_tokenizer_abi.restype = ctypes.c_int
    if library.rwkvjax_tokenizer_abi() != _ABI:
        raise OSError(f"{path} has another interface")
    library.rwkvjax_encode.argtypes = [pointer, size, pointer, pointer, pointer, pointer]
    library.rwkvjax_encode.restype = size
    library.rwkvjax_decode.argtypes = [pointer, size, pointer, pointer, pointer]
    library.rwkvjax_decode.restype = size
    return library
