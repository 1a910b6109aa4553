# SPDX-License-Identifier: Apache-2.0
"""Token files in the "binidx" format (Megatron "MMIDIDX"), memory-mapped.

`NAME.bin` holds the tokens of all documents one after another without a header. `NAME.idx`,
little-endian:

  offset      bytes  content
  0           9      4D 4D 49 44 49 44 58 00 00 ("MMIDIDX\\0\\0")
  9           8      u64 version = 1
  17          1      u8 dtype code: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 6 and 7 float64, 8 u16
  18          8      u64 number of items n
  26          8      u64 length d of the document index
  34          4n     i32 item lengths in tokens
  34 + 4n     8n     i64 byte offset of each item in NAME.bin
  34 + 12n    8d     i64 item numbers at which documents start; the first is 0, the last is n

RWKV writes one item for a document and ends each with token 0. Its trainer ignores the items: it
reads windows that start anywhere and cross documents (`get(0, offset, length)`). Reference:
RWKV-LM, `RWKV-v5/src/binidx.py`. Later Megatron versions use code 7 for float32; no token file is
affected.

Files come from outside, so everything in the index is checked against the sizes of both files
before it is used. `binidx_builder` writes the format.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
HEADER_BYTES = 34
DTYPES: dict[int, np.dtype] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f8"),
    8: np.dtype("<u2"),
}
_CHECK_CHUNK = 1 << 20


class BinidxError(ValueError):
    """A token file or its index is damaged, or the two do not belong together."""


def dtype_code(dtype: np.typing.DTypeLike) -> int:
    """The format's code of `dtype`; float64 is 7, as the reference writes it. Raises ValueError."""
    wanted = np.dtype(dtype).newbyteorder("<")
    for code in (8, 1, 2, 3, 4, 5, 7):
        if DTYPES[code] == wanted:
            return code
    known = ", ".join(sorted({str(kind) for kind in DTYPES.values()}))
    raise ValueError(f"binidx cannot store dtype {np.dtype(dtype)}; it has codes for {known}")


def binidx_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """(NAME.bin, NAME.idx) of `path`, which is NAME or one of the two files."""
    text = os.fspath(path)
    if text.endswith((".bin", ".idx")):
        text = text[:-4]
    return Path(text + ".bin"), Path(text + ".idx")


def encode_header(dtype: np.typing.DTypeLike, num_items: int, document_index_length: int) -> bytes:
    """The first 34 bytes of NAME.idx."""
    numbers = struct.pack("<QBQQ", VERSION, dtype_code(dtype), num_items, document_index_length)
    return MAGIC + numbers


class MmapTokens:
    """A token file, memory-mapped and read-only.

    Attributes:
      path: NAME, the common part of both file names.
      dtype: NumPy dtype of a token.
      lengths: int32 [n], tokens of each item.
      offsets: int64 [n], byte offset of each item in NAME.bin.
      document_index: int64 [d], item numbers at which documents start, and n.
      num_tokens: all tokens of NAME.bin, whatever the items say.

    `lengths`, `offsets` and `document_index` are views of the file and, for the format's odd
    header, not aligned in memory: index them, but do not hand them whole to NumPy functions when
    the file is huge, which would copy them.
    """

    def __init__(self, path: str | os.PathLike[str], *, check: bool = True):
        """Opens NAME.bin and NAME.idx.

        Args:
          path: NAME, NAME.bin or NAME.idx.
          check: also check each item and each document, which reads the whole index once (12
            bytes a document). The header and the file sizes are always checked.

        Raises:
          FileNotFoundError: one of the two files is missing.
          BinidxError: a field is not what the format or the other file demands.
        """
        self._bin_path, self._idx_path = binidx_paths(path)
        self.path = Path(os.fspath(self._bin_path)[:-4])
        for file in (self._bin_path, self._idx_path):
            if not file.is_file():
                raise FileNotFoundError(f"token file {self.path} is incomplete: no file {file}")
        self._read_index()
        self._map_tokens()
        if check:
            self._check_items()
            self._check_document_index()

    def __reduce__(self):
        return type(self)._reopen, (os.fspath(self.path),)

    @classmethod
    def _reopen(cls, path: str) -> MmapTokens:
        return cls(path, check=False)

    def _fail(self, file: Path, field: str, expected: object, found: object) -> BinidxError:
        return BinidxError(f"{file}: {field}: expected {expected}, found {found}")

    def _read_index(self) -> None:
        path = self._idx_path
        size = path.stat().st_size
        if size < HEADER_BYTES:
            raise self._fail(path, "file size", f"at least {HEADER_BYTES} bytes", size)
        content = np.memmap(path, np.uint8, mode="r")
        header = content[:HEADER_BYTES].tobytes()
        if header[:9] != MAGIC:
            raise self._fail(path, "magic", MAGIC, header[:9])
        version, code, items, documents = struct.unpack("<QBQQ", header[9:])
        if version != VERSION:
            raise self._fail(path, "version", VERSION, version)
        if code not in DTYPES:
            raise self._fail(path, "dtype code", f"one of {sorted(DTYPES)}", code)
        if documents < 1:
            raise self._fail(path, "document index length", "at least 1", documents)
        expected = HEADER_BYTES + 12 * items + 8 * documents
        if size != expected:
            counts = f"{expected} bytes for {items} items and {documents} document index entries"
            raise self._fail(path, "file size", counts, size)
        self.dtype = DTYPES[code]
        ends = [HEADER_BYTES, HEADER_BYTES + 4 * items, HEADER_BYTES + 12 * items, size]
        self.lengths = content[ends[0] : ends[1]].view("<i4")
        self.offsets = content[ends[1] : ends[2]].view("<i8")
        self.document_index = content[ends[2] : ends[3]].view("<i8")

    def _map_tokens(self) -> None:
        size = self._bin_path.stat().st_size
        if size % self.dtype.itemsize:
            expected = f"a multiple of {self.dtype.itemsize} bytes ({self.dtype})"
            raise self._fail(self._bin_path, "file size", expected, size)
        self.num_tokens = size // self.dtype.itemsize
        if size:
            self.tokens: np.ndarray = np.memmap(self._bin_path, self.dtype, mode="r")
        else:  # an empty file cannot be mapped
            self.tokens = np.zeros(0, self.dtype)

    def _check_items(self) -> None:
        """Lengths not negative; items aligned, in order, without overlap, inside NAME.bin."""
        width, end = self.dtype.itemsize, 0
        total = self.num_tokens * width
        for first in range(0, len(self), _CHECK_CHUNK):
            lengths = np.array(self.lengths[first : first + _CHECK_CHUNK], np.int64)
            offsets = np.array(self.offsets[first : first + _CHECK_CHUNK])
            for bad, field, expected, values in (
                (lengths < 0, "length", "at least 0", lengths),
                (offsets < 0, "offset", "at least 0", offsets),
                (offsets % width != 0, "offset", f"a multiple of {width}", offsets),
                (
                    offsets > total - lengths * width,
                    "end",
                    f"at most {total} bytes (the size of {self._bin_path})",
                    offsets + lengths * width,
                ),
            ):
                if bad.any():
                    item = int(np.argmax(bad))
                    name = f"{field} of item {first + item}"
                    raise self._fail(self._idx_path, name, expected, int(values[item]))
            ends = np.concatenate([[end], offsets + lengths * width])
            overlap = offsets < ends[:-1]
            if overlap.any():
                item = int(np.argmax(overlap))
                expected = f"at least {ends[item]} (the end of the item before)"
                name = f"offset of item {first + item}"
                raise self._fail(self._idx_path, name, expected, int(offsets[item]))
            end = int(ends[-1])

    def _check_document_index(self) -> None:
        """The first entry is 0, the last is n, none is smaller than the one before."""
        index, last = self.document_index, 0
        if index[0] != 0:
            raise self._fail(self._idx_path, "first document index entry", 0, int(index[0]))
        if index[-1] != len(self):
            raise self._fail(
                self._idx_path, "last document index entry", f"{len(self)} items", int(index[-1])
            )
        for first in range(0, len(index), _CHECK_CHUNK):
            chunk = np.array(index[first : first + _CHECK_CHUNK])
            steps = np.diff(chunk, prepend=last)
            if (steps < 0).any():
                entry = int(np.argmax(steps < 0))
                before = int(chunk[entry - 1]) if entry else last
                name = f"document index entry {first + entry}"
                raise self._fail(self._idx_path, name, f"at least {before}", int(chunk[entry]))
            last = int(chunk[-1])

    def __len__(self) -> int:
        """Number of items."""
        return len(self.lengths)

    @property
    def num_documents(self) -> int:
        """Number of documents: entries of the document index before the last."""
        return len(self.document_index) - 1

    def __getitem__(self, item: int) -> np.ndarray:
        """All tokens of one item, as `get(item)`."""
        return self.get(item)

    def get(self, item: int, offset: int = 0, length: int | None = None) -> np.ndarray:
        """Tokens that start `offset` tokens after the start of an item.

        As in the reference, neither `offset` nor `length` is bound by the item: `get(0, i, k)` is
        the window of k tokens at token i of the whole file, across documents.

        Args:
          item: item number in [-n, n); negative ones count from the end.
          offset: tokens to skip, at least 0.
          length: tokens to read; the rest of the item by default.

        Returns:
          Read-only view [length] of the file.

        Raises:
          IndexError: no such item, or the window leaves the file.
        """
        if not -len(self) <= item < len(self):
            raise IndexError(f"{self.path}: item {item} of {len(self)} items")
        if length is None:
            length = int(self.lengths[item]) - offset
        if offset < 0 or length < 0:
            raise IndexError(
                f"{self.path}: offset {offset} and length {length} of item {item} (with "
                f"{self.lengths[item]} tokens) must not be negative"
            )
        return self.window(int(self.offsets[item]) // self.dtype.itemsize + offset, length)

    def window(self, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length) of the whole file, a read-only view; or IndexError."""
        if start < 0 or length < 0 or start + length > self.num_tokens:
            raise IndexError(
                f"{self.path}: tokens [{start}, {start + length}) of {self.num_tokens} tokens"
            )
        return self.tokens[start : start + length]

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        """Positions in [start, stop), in tokens of the whole file, at which documents start.

        Found by bisection, so only a few pages of the index are read. Documents without tokens
        share their position with the next one.

        Returns:
          int64 [k], strictly increasing.
        """
        width = self.dtype.itemsize
        first, last = (_lower_bound(self.offsets, edge * width) for edge in (start, stop))
        low, high = (_lower_bound(self.document_index, item) for item in (first, last))
        items = np.array(self.document_index[low:high])
        return np.unique(self.offsets[items] // width)

    def document_bounds(self) -> np.ndarray:
        """int64 [d]: document i holds the tokens [bounds[i], bounds[i + 1]) of the whole file.

        Raises:
          BinidxError: the items do not fill NAME.bin one after another, so that documents have no
            bounds of this kind.
        """
        ends = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.lengths, out=ends[1:])
        width = self.dtype.itemsize
        if ends[-1] != self.num_tokens or not np.array_equal(ends[:-1] * width, self.offsets):
            raise self._fail(
                self._idx_path, "items", f"{self.num_tokens} tokens without gaps", ends[-1]
            )
        return ends[np.array(self.document_index)]


def _lower_bound(values: np.ndarray, wanted: int) -> int:
    """First index i with values[i] >= wanted in sorted values, or their number.

    `np.searchsorted` would copy the whole array, because it is not aligned in memory.
    """
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low
