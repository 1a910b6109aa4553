# SPDX-License-Identifier: Apache-2.0
"""Tokenising groups of documents in several processes, in order and with bounded memory."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from rwkvjax.data.text import Position
from rwkvjax.tokenizers import Tokenizer, get_tokenizer


@dataclasses.dataclass(frozen=True)
class Place:
    """How far the input files have been read.

    Attributes:
      file: number of the file to go on with.
      position: where to go on in it; None at its start.
      skipped_lines: broken lines left out in the files before.
      done_bytes: bytes of all input files read so far.
    """

    file: int = 0
    position: Position | None = None
    skipped_lines: int = 0
    done_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class TextChunk:
    """Some documents, and the place after them."""

    texts: list[str]
    place: Place


@dataclasses.dataclass(frozen=True)
class EncodedChunk:
    """Tokens of a `TextChunk`.

    Attributes:
      tokens: uint16, all documents one after another.
      lengths: int64 [documents].
      text_bytes: UTF-8 bytes of the documents.
      place: of the chunk.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    text_bytes: int
    place: Place


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns documents into tokens.

    Attributes:
      name: of the tokenizer, as `get_tokenizer` takes it.
      tokenizer: the tokenizer.
      end_of_document: token appended to each document, or None.
      verify: decode each document again and compare.
    """

    name: str
    tokenizer: Tokenizer
    end_of_document: int | None
    verify: bool

    @classmethod
    def make(cls, name: str, end_of_document: bool, verify: bool) -> Encoder:
        """Loads a tokenizer; ValueError if it has no end-of-document token but one is wanted."""
        tokenizer = get_tokenizer(name)
        if tokenizer.vocab_size > 1 << 16:
            raise ValueError(
                f"tokenizer {name!r} has {tokenizer.vocab_size} tokens; 65536 fit a token file"
            )
        if not end_of_document:
            return cls(name, tokenizer, None, verify)
        if tokenizer.end_of_document is None:
            raise ValueError(f"tokenizer {name!r} has no end-of-document token to append")
        return cls(name, tokenizer, tokenizer.end_of_document, verify)

    def __call__(self, chunk: TextChunk) -> EncodedChunk:
        """Tokens of all documents of the chunk."""
        pieces: list[np.ndarray] = []
        lengths, size = [], 0
        for text in chunk.texts:
            data = text.encode()
            size += len(data)
            tokens = self.tokenizer.encode_bytes(data)
            if self.verify and self.tokenizer.decode(tokens) != text:
                raise ValueError(
                    f"tokenizer {self.name!r} does not give back the document that starts with "
                    f"{text[:80]!r}"
                )
            pieces.append(tokens)
            if self.end_of_document is not None:
                pieces.append(np.array([self.end_of_document], np.uint16))
            lengths.append(len(tokens) + (self.end_of_document is not None))
        joined = np.concatenate([np.zeros(0, np.uint16), *pieces])
        return EncodedChunk(joined, np.array(lengths, np.int64), size, chunk.place)


def parallel_encode(
    encoder: Encoder, chunks: Iterable[TextChunk], workers: int
) -> Iterator[EncodedChunk]:
    """Encodes chunks in order.

    Args:
      encoder: what to do with each.
      chunks: read only as fast as the results are taken.
      workers: processes; 1 does all the work in this one.
    """
    if workers == 1:
        yield from map(encoder, chunks)
        return
    # A fresh interpreter for each worker: forking a program that has threads can deadlock.
    context = multiprocessing.get_context("spawn")
    options = (encoder.name, encoder.end_of_document is not None, encoder.verify)
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=options
    ) as pool:
        pending: collections.deque[concurrent.futures.Future[EncodedChunk]] = collections.deque()
        try:
            for chunk in chunks:
                pending.append(pool.submit(_encode_in_worker, chunk))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


_worker_encoder: Encoder | None = None


def _start_worker(name: str, end_of_document: bool, verify: bool) -> None:
    global _worker_encoder
    _worker_encoder = Encoder.make(name, end_of_document, verify)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A killed parent cannot stop its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _encode_in_worker(chunk: TextChunk) -> EncodedChunk:
    assert _worker_encoder is not None
    return _worker_encoder(chunk)
