# SPDX-License-Identifier: Apache-2.0
"""Documents of text and JSONL files, one at a time, with a position to resume from.

A text file is one document, or several if a separator is given: a line that holds nothing else
(TinyStories, for instance, uses "<|endoftext|>"). Line ends and all other characters are kept. A
JSONL file has one JSON object with a text field on each line that is not blank. One document at a
time is held in memory.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, Any

from rwkvjax.data.inputs import InputFile

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DECOMPRESSION_ERRORS = (EOFError, zlib.error, lzma.LZMAError)
_BOM = b"\xef\xbb\xbf"


class DocumentError(ValueError):
    """A file's content is not what its format demands; the message names file and place."""


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How to read documents.

    Attributes:
      field: JSONL field that holds the text.
      errors: "strict" (bytes that are not UTF-8 are an error) or "replace" (they become U+FFFD).
      broken_lines: "error", or "skip" to leave out and count JSONL lines that cannot be used.
      separator: line that parts the documents of a text file; None: a file is one document.
    """

    field: str = "text"
    errors: str = "strict"
    broken_lines: str = "error"
    separator: str | None = None

    def __post_init__(self):
        if self.errors not in ("strict", "replace"):
            raise ValueError(f"errors must be 'strict' or 'replace', got {self.errors!r}")
        if self.broken_lines not in ("error", "skip"):
            raise ValueError(f"broken_lines must be 'error' or 'skip', got {self.broken_lines!r}")
        if self.separator is not None and self.separator != self.separator.strip():
            raise ValueError(f"separator must not have space around it, got {self.separator!r}")
        if self.separator == "":
            raise ValueError("separator must not be empty")


@dataclasses.dataclass(frozen=True)
class Position:
    """What of a file has been read.

    Attributes:
      offset: bytes of the uncompressed content.
      line: lines.
      documents: documents returned.
      skipped: broken lines left out.
    """

    offset: int = 0
    line: int = 0
    documents: int = 0
    skipped: int = 0


class DocumentReader:
    """Iterates over the documents (str) of one file.

    Attributes:
      position: where the last returned document ends. A new reader that starts there returns the
        documents that follow.
      read_bytes: bytes of the file itself, compressed or not, read so far.
    """

    def __init__(
        self,
        file: InputFile,
        options: ReadOptions | None = None,
        position: Position | None = None,
    ):
        """Nothing is opened before the iteration.

        Args:
          file: what to read.
          options: how to read it.
          position: where to start; a compressed file is read from its start to get there.
        """
        self.file = file
        self.options = options or ReadOptions()
        self.position = position or Position()
        self.read_bytes = 0

    def __iter__(self) -> Iterator[str]:
        """Yields documents.

        Raises:
          DocumentError: content that cannot be used, or no document in the whole file.
          OSError: the file cannot be read.
        """
        with open(self.file.path, "rb") as raw:
            opener = _OPENERS.get(self.file.path.suffix.lower())
            stream = opener(raw) if opener else raw
            try:
                stream.seek(self.position.offset)
                for document in self._documents(stream):
                    self.read_bytes = raw.tell()
                    yield document
            except (*_DECOMPRESSION_ERRORS, OSError) as error:
                # gzip and bz2 report damaged content as an OSError that no system call caused.
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise DocumentError(f"{self.file.path}: damaged compression: {error}") from error
            self.read_bytes = raw.tell()
        if not self.position.documents:
            skipped = self.position.skipped
            reason = f" ({skipped} broken lines were skipped)" if skipped else ""
            raise DocumentError(f"{self.file.path}: no documents in this file{reason}")

    def _documents(self, stream: IO[bytes]) -> Iterator[str]:
        if self.file.format == "jsonl":
            return self._json_documents(stream)
        if self.options.separator is not None:
            return self._separated_documents(stream)
        return self._whole_document(stream)

    def _advance(self, size: int, lines: int, documents: int = 0, skipped: int = 0) -> None:
        self.position = Position(
            self.position.offset + size,
            self.position.line + lines,
            self.position.documents + documents,
            self.position.skipped + skipped,
        )

    def _whole_document(self, stream: IO[bytes]) -> Iterator[str]:
        data = stream.read()
        if data:
            text = self._decode(data, f"{self.file.path}", self.position.offset)
            self._advance(len(data), data.count(b"\n"), documents=1)
            yield text

    def _separated_documents(self, stream: IO[bytes]) -> Iterator[str]:
        assert self.options.separator is not None
        separator = self.options.separator.encode()
        lines: list[bytes] = []
        size = 0
        for line in stream:
            size += len(line)
            if line.strip() != separator:
                lines.append(line)
                continue
            yield from self._separated(lines, size, 1)
            lines, size = [], 0
        yield from self._separated(lines, size, 0)

    def _separated(self, lines: list[bytes], size: int, separators: int) -> Iterator[str]:
        data = b"".join(lines)
        if data.strip():
            text = self._decode(data, f"{self.file.path}", self.position.offset)
            self._advance(size, len(lines) + separators, documents=1)
            yield text
        else:
            self._advance(size, len(lines) + separators)

    def _json_documents(self, stream: IO[bytes]) -> Iterator[str]:
        for line in stream:
            text = None
            if line.strip():
                try:
                    text = self._json_text(line)
                except DocumentError:
                    if self.options.broken_lines == "error":
                        raise
                    self._advance(len(line), 1, skipped=1)
                    continue
            self._advance(len(line), 1, documents=text is not None)
            if text is not None:
                yield text

    def _json_text(self, line: bytes) -> str:
        place = f"{self.file.path}, line {self.position.line + 1}"
        start = self.position.offset
        if start == 0 and line.startswith(_BOM):  # RFC 8259 lets a reader ignore it
            line, start = line[len(_BOM) :], len(_BOM)
        source = self._decode(line, place, start)
        try:
            value = json.loads(source)
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"{place}: not valid JSON: {error}") from error
        field = self.options.field
        if not isinstance(value, dict) or field not in value:
            found = sorted(value)[:10] if isinstance(value, dict) else type(value).__name__
            raise DocumentError(f"{place}: expected an object with {field!r}, found {found}")
        text = value[field]
        if not isinstance(text, str):
            kind = type(text).__name__
            raise DocumentError(f"{place}: expected text in field {field!r}, found {kind}")
        return self._whole_characters(text, place)

    def _whole_characters(self, text: str, place: str) -> str:
        """JSON can spell half a surrogate pair, which is no character and has no UTF-8 form."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if self.options.errors == "strict":
                raise DocumentError(
                    f"{place}: lone surrogate U+{ord(text[error.start]):04X} in field "
                    f"{self.options.field!r}; errors='replace' puts U+FFFD in its place"
                ) from error
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def _decode(self, data: bytes, place: str, offset: int) -> str:
        try:
            return data.decode("utf-8", self.options.errors)
        except UnicodeDecodeError as error:
            raise DocumentError(
                f"{place}: not UTF-8 at byte {offset + error.start} (0x{data[error.start]:02x}, "
                f"{error.reason}); errors='replace' puts U+FFFD in its place"
            ) from error
