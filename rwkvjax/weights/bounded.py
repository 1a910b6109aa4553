# SPDX-License-Identifier: Apache-2.0
"""Reading parts of files that may be truncated or hostile.

Every read names its offset and length, both checked against the length of the file before any
memory is allocated, so no number in a file can ask for more memory than the file has bytes.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from rwkvjax.weights.source import Tensor, WeightsError


def file_size(path: str | os.PathLike[str]) -> int:
    """Length of a regular file; raises FileNotFoundError or WeightsError."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file of weights: {path}")
    if not path.is_file():
        raise WeightsError(f"{path}: expected a file")
    return path.stat().st_size


def check_range(path: str | os.PathLike[str], what: str, offset: int, count: int) -> None:
    """Raises WeightsError unless [offset, offset + count) lies in the file."""
    size = file_size(path)
    if offset < 0 or count < 0 or offset + count > size:
        raise WeightsError(
            f"{path} is truncated or damaged: {what} needs bytes {offset} to {offset + count}, "
            f"the file has {size}"
        )


def read_bytes(path: str | os.PathLike[str], what: str, offset: int, count: int) -> bytes:
    """Exactly `count` bytes from `offset`."""
    check_range(path, what, offset, count)
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(count)
    if len(data) != count:
        raise WeightsError(f"{path}: {what}: read {len(data)} of {count} bytes")
    return data


def read_into(path: str | os.PathLike[str], what: str, offset: int, array: np.ndarray) -> None:
    """Fills a C-contiguous array with the bytes from `offset`."""
    check_range(path, what, offset, array.nbytes)
    view = array.reshape(-1).view(np.uint8).data
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise WeightsError(f"{path}: {what}: the file shrank while it was read")
            done += count


def stored_tensor(
    path: str | os.PathLike[str], name: str, offset: int, shape: tuple[int, ...], dtype: np.dtype
) -> Tensor:
    """A row-major tensor whose values lie at `offset`, checked now and read later."""
    check_shape(name, shape)
    check_range(path, name, offset, math.prod(shape) * dtype.itemsize)

    def read() -> np.ndarray:
        array = np.empty(shape, dtype)
        read_into(path, name, offset, array)
        return array

    def read_rows(start: int, stop: int) -> np.ndarray:
        array = np.empty((stop - start, *shape[1:]), dtype)
        row = math.prod(shape[1:]) * dtype.itemsize
        read_into(path, name, offset + start * row, array)
        return array

    return Tensor(shape, dtype, read, read_rows if shape else None)


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raises WeightsError for shapes that no tensor of a model has."""
    if len(shape) > 8 or any(isinstance(n, bool) or not isinstance(n, int) for n in shape):
        raise WeightsError(f"{name[:100]!r} has the impossible shape {shape!r:.100}")
    if any(n < 1 for n in shape):
        raise WeightsError(f"{name[:100]!r} is empty: {shape=}")
