# SPDX-License-Identifier: Apache-2.0
"""Batches as a pure function of (seed, step), and their transport to the devices.

A `Source` maps global example indices to arrays; step `s` of a run with batch size `B` is made of
the examples `s B ... s B + B - 1`. So a run resumes from the step number alone, on any number of
hosts: each asks for the rows that its devices hold. grain moves the batches (worker threads,
read-ahead); a plain thread pool does the same where grain is not installed.
"""

from __future__ import annotations

import collections
import concurrent.futures
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from core import permute
from core import sharding as sharding_lib

Batch = Mapping[str, np.ndarray]


class Source(Protocol):
    """Examples by global index; see the module docstring."""

    def __len__(self) -> int:
        """Number of examples in one epoch."""

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays with leading dimension `len(indices)`; a pure function of the indices."""


def batches(
    source: Source,
    batch_size: int,
    start: int,
    stop: int,
    rows: slice = slice(None),
    *,
    transport: str = "auto",
    threads: int = 2,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Yields the batches of steps start ... stop-1, read ahead of their use.

    Args:
      source: where examples come from.
      batch_size: global batch size.
      start, stop: range of steps.
      rows: rows of each batch that this process needs (see `local_rows`).
      transport: "grain", "threads", or "auto" (grain where it is installed).
      threads: number of reading threads.
      prefetch: number of batches read ahead.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(source) < 1:
        raise ValueError("the data source holds no examples")
    row_ids = np.arange(batch_size, dtype=np.int64)[rows]

    def load(step: int) -> Batch:
        return source.get(step * batch_size + row_ids)

    if transport == "auto":
        transport = "grain" if importlib.util.find_spec("grain") else "threads"
    if transport == "grain":
        return _grain(load, start, stop, threads, prefetch)
    if transport == "threads":
        return _threads(load, start, stop, threads, prefetch)
    raise ValueError(f"transport must be auto, grain or threads, got {transport!r}")


def _grain(
    load: Callable[[int], Batch], start: int, stop: int, threads: int, prefetch: int
) -> Iterator[Batch]:
    import grain

    if start >= stop:
        return
    steps = grain.MapDataset.range(start, stop).map(lambda step: load(int(step)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    yield from steps.to_iter_dataset(options)


def _threads(
    load: Callable[[int], Batch], start: int, stop: int, threads: int, prefetch: int
) -> Iterator[Batch]:
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
        for step in range(start, stop):
            pending.append(pool.submit(load, step))
            if len(pending) > prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def batch_sharding(
    shape: tuple[int, ...], mesh: Mesh, rules: sharding_lib.Rules
) -> jax.sharding.NamedSharding:
    """Sharding of one array of a batch: the leading axis is "batch", the rest is not split."""
    axes = ("batch", *(None,) * (len(shape) - 1))
    return sharding_lib.named_sharding(axes, shape, mesh, rules)


def local_rows(batch_size: int, mesh: Mesh, rules: sharding_lib.Rules) -> slice:
    """The contiguous range of batch rows that the devices of this process hold."""
    sharding = batch_sharding((batch_size,), mesh, rules)
    index = sharding.addressable_devices_indices_map((batch_size,)).values()
    bounds = [(i[0].indices(batch_size)) for i in index if i is not None]
    return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


def to_devices(
    batch: Batch, batch_size: int, rows: slice, mesh: Mesh, rules: sharding_lib.Rules
) -> dict[str, jax.Array]:
    """Places the local rows of a batch as global arrays."""
    offset = rows.start or 0

    def put(x: np.ndarray) -> jax.Array:
        shape = (batch_size, *x.shape[1:])
        sharding = batch_sharding(shape, mesh, rules)
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)

        def piece(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            first, last, _ = index[0].indices(batch_size)
            return x[(slice(first - offset, last - offset), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, piece)

    return {name: put(np.asarray(x)) for name, x in batch.items()}


class Once:
    """A source read once for evaluation: indices past its end are marked instead of wrapped."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """As the source's, with "valid" float32 [n]: 0 for rows that only fill the last batch."""
        indices = np.asarray(indices, np.int64)
        inside = indices < len(self._source)
        batch = self._source.get(np.where(inside, indices, 0))
        return {**batch, "valid": inside.astype(np.float32)}


class ArraySource:
    """Examples held in memory: a dict of equally long arrays, reshuffled every epoch."""

    def __init__(self, arrays: Mapping[str, Any], seed: int | None = 0):
        """Args: arrays by name; seed of the order (None keeps the given order)."""
        self._arrays = {name: np.asarray(x) for name, x in arrays.items()}
        lengths = {name: len(x) for name, x in self._arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays must be equally long, got {lengths}")
        self._length = next(iter(lengths.values()))
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.get`."""
        rows = permute.order(indices, self._length, self._seed)
        return {name: x[rows] for name, x in self._arrays.items()}
