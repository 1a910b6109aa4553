# SPDX-License-Identifier: Apache-2.0
"""Finite sets of procedural images: order, memory, disk cache and worker processes.

A set is a `core.data.Source`. Its images are numbered 0 ... size-1, and image k depends on the
set's name, split, seed and k only. Images are made when first asked for, in blocks, and kept in
memory in their stored (for binary images: bit-packed) form; with `cache_dir` the finished set is
written to one file, which later runs read instead of drawing. Sets larger than `MEMORY` are
neither kept nor cached but drawn each time.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import multiprocessing
import os
import pathlib
import threading
import zipfile
from collections.abc import Sequence

import numpy as np

from core import files, permute

SPLITS = ("train", "validation", "test")
_BLOCK = 512  # images drawn together
MEMORY = 2 << 30  # bytes; the largest set that is kept


class ImageSet:
    """Base of the procedural sets; a subclass defines `make` and, where needed, `unpack`."""

    def __init__(
        self,
        name: Sequence[int | str],
        version: int,
        split: str,
        size: int,
        seed: int,
        *,
        shuffle: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        workers: int = 0,
    ):
        """Describes the set; nothing is drawn yet.

        Args:
          name: what identifies the images besides split and seed.
          version: of the generator; cached files of other versions are not read.
          split: "train", "validation" or "test": different images of the same kind.
          size: number of images; smaller sets are prefixes of larger ones.
          seed: >= 0.
          shuffle: whether `get` reshuffles every epoch; by default only "train" does.
          cache_dir: folder of cached sets, created where needed; None: memory only.
          workers: processes that draw when the whole set is made; 0: the calling one.

        Raises:
          ValueError: an argument out of range.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        if seed < 0 or workers < 0:
            raise ValueError(f"seed and workers must be at least 0, got {seed=} and {workers=}")
        self.name, self.version = tuple(name), version
        self.split, self.size, self.seed = split, size, seed
        self._shuffle = split == "train" if shuffle is None else shuffle
        self._cache_dir = pathlib.Path(cache_dir) if cache_dir is not None else None
        self._workers = workers
        self._row_bytes: int | None = None
        self._reset_memory()

    def make(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Draws the images number `rows` (int64 [n], sorted or not) in the form to be stored."""
        raise NotImplementedError

    def unpack(self, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Turns stored arrays into those of a batch; by default they are the same."""
        return stored

    def __len__(self) -> int:
        return self.size

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `core.data.Source.get`; indices past the end start the next epoch.

        Raises:
          ValueError: a negative index.
        """
        seed = self.seed if self._shuffle else None
        return self.rows(permute.order(indices, self.size, seed))

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The images number `rows`, in this order.

        Raises:
          IndexError: a number outside of 0 ... size-1.
        """
        rows = np.asarray(rows, np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= self.size):
            raise IndexError(f"image numbers must be in 0 ... {self.size - 1}, got {rows}")
        if not self.kept():
            return self.unpack(self.make(rows))
        self._fill(rows)
        return self.unpack({key: values[rows] for key, values in self._memory.items()})

    def kept(self) -> bool:
        """Whether the set is small enough to be kept in memory."""
        path = self.cache_file()
        if self._filled.any() or (path is not None and path.is_file()):
            return True
        if self._row_bytes is None:
            self._row_bytes = sum(x.nbytes for x in self.make(np.arange(1)).values())
        return self._row_bytes * self.size <= MEMORY

    def prepare(self) -> None:
        """Draws (or reads from the cache) the whole set now, with all workers; a set that is not
        kept needs no preparation."""
        if self.kept():
            self._fill(np.arange(self.size))

    def __getstate__(self) -> dict[str, object]:
        """The description without the images: workers draw their own."""
        state = dict(self.__dict__)
        for key in ("_lock", "_memory", "_filled"):
            del state[key]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset_memory()

    def _reset_memory(self) -> None:
        self._lock = threading.Lock()  # batches are read by several threads
        self._memory: dict[str, np.ndarray] = {}
        self._filled = np.zeros(-(-self.size // _BLOCK), bool)

    def _fill(self, rows: np.ndarray) -> None:
        """Makes sure that the images number `rows` are in memory."""
        with self._lock:
            wanted = np.unique(rows // _BLOCK)
            if self._filled[wanted].all():
                return
            if self._cache_dir is not None:
                wanted = np.arange(len(self._filled))
                if self._read_cache():
                    return
            self._draw([int(b) for b in wanted if not self._filled[b]])
            if self._cache_dir is not None:
                self._write_cache()

    def _draw(self, blocks: list[int]) -> None:
        if self._workers > 1 and len(blocks) > 1:
            # "spawn": a forked child would inherit the locks of jax's threads.
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(self._workers, context) as pool:
                for block, made in zip(blocks, pool.map(self._block, blocks), strict=True):
                    self._store(block, made)
        else:
            for block in blocks:
                self._store(block, self._block(block))

    def _block(self, block: int) -> dict[str, np.ndarray]:
        return self.make(np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self.size)))

    def _store(self, block: int, made: dict[str, np.ndarray]) -> None:
        if not self._memory:
            self._memory = {
                key: np.zeros((self.size, *x.shape[1:]), x.dtype) for key, x in made.items()
            }
        for key, values in made.items():
            self._memory[key][block * _BLOCK : block * _BLOCK + len(values)] = values
        self._filled[block] = True

    def cache_file(self) -> pathlib.Path | None:
        """The file that holds this set when it is cached."""
        if self._cache_dir is None:
            return None
        text = repr((self.name, self.version, self.split, self.size, self.seed))
        label = "-".join(str(part) for part in self.name)[:40]  # the digest names all of it
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        return self._cache_dir / f"{label}-{self.split}-{self.size}-s{self.seed}-{digest}.npz"

    def _read_cache(self) -> bool:
        path = self.cache_file()
        if path is None or not path.is_file():
            return False
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                memory = {key: stored[key] for key in stored.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it to draw it again") from error
        if not memory or any(len(x) != self.size for x in memory.values()):
            raise ValueError(f"{path} does not hold {self.size} images; delete it")
        self._memory = memory
        self._filled[:] = True
        return True

    def _write_cache(self) -> None:
        path = self.cache_file()
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, **self._memory)  # type: ignore[arg-type]
        files.write_bytes(path, content.getvalue())


def default_cache_dir() -> pathlib.Path:
    """$XDG_CACHE_HOME/rwkvjax/images, by default below ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return pathlib.Path(home).expanduser() / "rwkvjax" / "images"
