# SPDX-License-Identifier: Apache-2.0
"""Writes binidx token files (`binidx`) of any size, in a stream, without ever damaging one.

Until `finish` everything lies in the folder `NAME.partial`; `NAME.bin` and `NAME.idx` are not
touched. The folder holds

  tokens.bin   the tokens so far, the future NAME.bin
  lengths.i32  length of each item so far
  documents.i64  number of items at each document end so far
  journal.json how much of the three files is valid, and a note of the caller
  lock         held while a builder is open

A checkpoint flushes the three files to the disk and then replaces the journal atomically. A
process that is killed leaves the journal of its last checkpoint; a new builder with `resume=True`
cuts the files back to it and goes on. Memory use does not grow with the data.

`finish` first writes the index beside the tokens, marks the journal as complete, and then renames:
the old NAME.idx goes first and the new one comes last, so that at no moment an index stands beside
tokens of another data set. A crash in the middle of that is completed by the next builder.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.files import (
    exclusive_lock,
    explain_full_disk,
    replace_file,
    sync_directory,
    write_text,
)
from rwkvjax.data.binidx import BinidxError, binidx_paths, dtype_code, encode_header

MAX_ITEM_TOKENS = 2**31 - 1
_COPY_ITEMS = 1 << 18
_JOURNAL_VERSION = 1
_FILES = {"tokens": "tokens.bin", "items": "lengths.i32", "documents": "documents.i64"}


def stats_path(path: str | os.PathLike[str]) -> Path:
    """NAME.stats.json, what the maker of a token file has to say about it, if anything."""
    return Path(os.fspath(binidx_paths(path)[0])[:-4] + ".stats.json")


class BinidxBuilder:
    """Appends items and documents to a new token file; use as a context manager.

        with BinidxBuilder("corpus", np.uint16) as builder:
            for tokens in documents:
                builder.add_document(tokens)
            builder.finish()

    Leaving the body without `finish` keeps `NAME.partial` as of the last checkpoint.

    Attributes:
      num_tokens, num_items, num_documents: what has been added so far.
      note: the note of the checkpoint that was resumed, None at a fresh start.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dtype: np.typing.DTypeLike = np.uint16,
        *,
        overwrite: bool = False,
        resume: bool = False,
    ):
        """Prepares `NAME.partial`.

        Args:
          path: NAME; the folder that will hold it must exist.
          dtype: type of a token.
          overwrite: allow `finish` to replace an existing NAME.bin and NAME.idx.
          resume: go on from the last checkpoint of a killed builder if there is one; otherwise
            start afresh and drop what such a builder has left.

        Raises:
          FileExistsError: NAME exists and `overwrite` is false.
          FileNotFoundError: the folder does not exist.
          core.files.FileInUseError: another builder writes the same NAME.
          BinidxError: the state to resume is damaged or has another dtype.
        """
        self._bin_path, self._idx_path = binidx_paths(path)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        dtype_code(self._dtype)
        self._partial = Path(os.fspath(self._bin_path)[:-4] + ".partial")
        if not self._bin_path.parent.is_dir():
            raise FileNotFoundError(f"folder {self._bin_path.parent} does not exist")
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self.num_tokens = self.num_items = self.num_documents = 0
        self.note: dict[str, Any] | None = None
        if not overwrite:
            self._refuse_existing(resume)
        self._partial.mkdir(exist_ok=True)
        self._stack.enter_context(exclusive_lock(self._partial / "lock"))
        try:
            self._start(resume)
        except BaseException:
            self.close()
            raise

    def _refuse_existing(self, resume: bool) -> None:
        existing = [str(path) for path in (self._bin_path, self._idx_path) if path.exists()]
        # A crash between the two renames of `finish` leaves NAME.bin alone; that is ours.
        if existing and not (resume and self.is_complete):
            raise FileExistsError(f"{' and '.join(existing)} exist; pass overwrite to replace them")

    def __enter__(self) -> BinidxBuilder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files and frees the lock; what came after the last checkpoint is lost."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk must not hide the first error
                file.close()
        self._files = {}
        self._stack.close()

    # --- state on disk -----------------------------------------------------------------------

    def _start(self, resume: bool) -> None:
        journal = self._read_journal() if resume else None
        if journal is None:
            self._clear()
        elif journal["dtype"] != self._dtype.str:
            raise BinidxError(
                f"{self._partial}: expected dtype {self._dtype.str} to resume, "
                f"found {journal['dtype']}"
            )
        else:
            self.num_tokens = journal["tokens"]
            self.num_items = journal["items"]
            self.num_documents = journal["documents"]
            self.note = journal["note"]
        if not self.is_complete:
            self._open_files()

    def _clear(self) -> None:
        # The journal goes first: without it a half-cleared folder counts as empty.
        (self._partial / "journal.json").unlink(missing_ok=True)
        for path in self._partial.iterdir():
            if path.name != "lock":
                path.unlink()

    def _read_journal(self) -> dict[str, Any] | None:
        path = self._partial / "journal.json"
        if not path.exists():
            return None
        expected = {"version", "dtype", "tokens", "items", "documents", "complete", "note"}
        try:
            journal = json.loads(path.read_text())
        except ValueError as error:
            raise BinidxError(f"{path}: expected a JSON journal, found {error}") from error
        if not isinstance(journal, dict) or set(journal) != expected:
            raise BinidxError(f"{path}: expected the fields {sorted(expected)}, found {journal!r}")
        if journal["version"] != _JOURNAL_VERSION:
            raise BinidxError(
                f"{path}: expected version {_JOURNAL_VERSION}, found {journal['version']}"
            )
        return journal

    def _write_journal(self, note: dict[str, Any], complete: bool) -> None:
        journal = {
            "version": _JOURNAL_VERSION,
            "dtype": self._dtype.str,
            "tokens": self.num_tokens,
            "items": self.num_items,
            "documents": self.num_documents,
            "complete": complete,
            "note": note,
        }
        write_text(self._partial / "journal.json", json.dumps(journal))

    def _widths(self) -> dict[str, tuple[int, int]]:
        """File -> (valid entries, bytes of one)."""
        return {
            "tokens": (self.num_tokens, self._dtype.itemsize),
            "items": (self.num_items, 4),
            "documents": (self.num_documents, 8),
        }

    def _open_files(self) -> None:
        for name, (count, width) in self._widths().items():
            path = self._partial / _FILES[name]
            path.touch()
            size = path.stat().st_size
            if size < count * width:
                raise BinidxError(f"{path}: expected at least {count * width} bytes, found {size}")
            os.truncate(path, count * width)
            self._files[name] = open(path, "ab", buffering=1 << 20)

    # --- building ----------------------------------------------------------------------------

    def add_item(self, tokens: np.ndarray) -> None:
        """Appends one item.

        Args:
          tokens: [k] integers that fit the dtype (or floats for a float file), k < 2**31.

        Raises:
          ValueError: another shape, too many tokens, or a token out of range.
          core.files.DiskFullError: no room; the last checkpoint stays valid.
        """
        tokens = self._checked(np.asarray(tokens))
        with explain_full_disk(self._partial / _FILES["tokens"]):
            self._files["tokens"].write(tokens.tobytes())
            self._files["items"].write(np.array(len(tokens), "<i4").tobytes())
        self.num_tokens += len(tokens)
        self.num_items += 1

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        if not self._files:
            raise ValueError(f"{self._bin_path}: nothing can be added after finish or close")
        if tokens.ndim != 1 or len(tokens) > MAX_ITEM_TOKENS:
            raise ValueError(
                f"an item has shape [k] with k < 2**31, got {tokens.shape} for {self._bin_path}"
            )
        if tokens.dtype == self._dtype or not len(tokens):
            return tokens.astype(self._dtype, copy=False)
        if self._dtype.kind == "f":
            if tokens.dtype.kind not in "fiu":
                raise ValueError(f"expected numbers for {self._dtype}, got dtype {tokens.dtype}")
            return tokens.astype(self._dtype)
        limits = np.iinfo(self._dtype)
        if tokens.dtype.kind not in "iu":
            raise ValueError(f"expected integer tokens, got dtype {tokens.dtype}")
        low, high = int(tokens.min()), int(tokens.max())
        if low < limits.min or high > limits.max:
            raise ValueError(f"tokens from {low} to {high} do not fit dtype {self._dtype}")
        return tokens.astype(self._dtype)

    def end_document(self) -> None:
        """Ends a document after the items added since the last one."""
        with explain_full_disk(self._partial / _FILES["documents"]):
            self._files["documents"].write(np.array(self.num_items, "<i8").tobytes())
        self.num_documents += 1

    def add_document(self, tokens: np.ndarray) -> None:
        """Appends a document of one item; arguments and errors as `add_item`."""
        self.add_item(tokens)
        self.end_document()

    def checkpoint(self, note: dict[str, Any] | None = None) -> None:
        """Makes everything added so far survive a kill or a power failure.

        Args:
          note: anything JSON can hold, for instance the position in the input; a resuming builder
            gets it back as `note`.
        """
        self._flush()
        self._write_journal(note or {}, complete=False)

    def _flush(self) -> None:
        with explain_full_disk(self._partial / _FILES["tokens"]):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())

    # --- finishing ---------------------------------------------------------------------------

    def finish(self, summary: dict[str, Any] | None = None) -> None:
        """Publishes NAME.bin and NAME.idx and removes `NAME.partial`.

        Args:
          summary: anything JSON can hold; published with them as NAME.stats.json. (A builder that
            completes the `finish` of a killed one publishes the summary given there.)

        Raises:
          ValueError: items were added after the last document end.
          core.files.DiskFullError: no room; nothing was published, and a builder can resume.
        """
        if not self.is_complete:
            self._flush()
            self._check_last_document()
            self._write_index()
            if summary is not None:
                text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
                write_text(self._partial / "stats.json", text)
            self._write_journal({}, complete=True)
        self._publish()
        self.close()
        self._remove_partial()

    @property
    def is_complete(self) -> bool:
        """Whether a builder that was killed had only the renames of `finish` left to do."""
        journal = self._read_journal()
        return bool(journal and journal["complete"])

    def _check_last_document(self) -> None:
        last = 0
        if self.num_documents:
            path, skipped = self._partial / _FILES["documents"], 8 * (self.num_documents - 1)
            last = int(np.fromfile(path, "<i8", offset=skipped)[0])
        if last != self.num_items:
            raise ValueError(
                f"{self.num_items - last} items after the last end_document of {self._bin_path}"
            )

    def _write_index(self) -> None:
        target = self._partial / "index.idx"
        with explain_full_disk(target), open(target, "wb") as file:
            file.write(encode_header(self._dtype, self.num_items, self.num_documents + 1))
            for lengths in self._stored("items", "<i4"):
                file.write(lengths.tobytes())
            offset = 0
            for lengths in self._stored("items", "<i4"):
                sizes = lengths.astype("<i8") * self._dtype.itemsize
                ends = offset + np.cumsum(sizes)
                file.write((ends - sizes).tobytes())
                offset = int(ends[-1])
            file.write(np.zeros(1, "<i8").tobytes())
            for documents in self._stored("documents", "<i8"):
                file.write(documents.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def _stored(self, name: str, dtype: str) -> Iterator[np.ndarray]:
        with open(self._partial / _FILES[name], "rb") as file:
            while chunk := file.read(_COPY_ITEMS * np.dtype(dtype).itemsize):
                yield np.frombuffer(chunk, dtype)

    def _publish(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}
        tokens, index = self._partial / _FILES["tokens"], self._partial / "index.idx"
        summary = self._partial / "stats.json"
        if tokens.exists():
            self._idx_path.unlink(missing_ok=True)
            stats_path(self._bin_path).unlink(missing_ok=True)
            sync_directory(self._idx_path.parent)
            replace_file(tokens, self._bin_path)
        if summary.exists():
            replace_file(summary, stats_path(self._bin_path))
        if index.exists():
            replace_file(index, self._idx_path)

    def _remove_partial(self) -> None:
        journal = self._partial / "journal.json"
        for path in self._partial.iterdir():
            if path != journal:
                path.unlink()
        journal.unlink()  # last, so that until then a builder knows that everything is published
        self._partial.rmdir()
        sync_directory(self._bin_path.parent)
