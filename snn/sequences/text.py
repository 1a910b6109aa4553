# SPDX-License-Identifier: Apache-2.0
"""Text as token streams: bytes, or the words of WikiText-2, in consecutive windows.

The validation part of WikiText-2 stands in for the Penn Treebank, which may not be redistributed:
the first 80 % of its lines train, 10 % validate, 10 % test.
"""

from __future__ import annotations

import collections
import dataclasses
import gzip
from pathlib import Path

import numpy as np

from core.datasets import find_dataset

EOS, UNKNOWN = "<eos>", "<unk>"
UNITS = ("byte", "word")
FILE = "wiki.valid.tokens.gz"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokens int32 [N] of three parts, and the vocabulary (words, or one name a byte)."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]


def split_lines(text: str) -> dict[str, str]:
    """The first 80 % of the lines, the next 10 %, the rest."""
    lines = text.splitlines(keepends=True)
    if len(lines) < 10:
        raise ValueError(f"a text of at least 10 lines is needed to split it, got {len(lines)}")
    a, b = len(lines) * 8 // 10, len(lines) * 9 // 10
    return {
        "train": "".join(lines[:a]),
        "valid": "".join(lines[a:b]),
        "test": "".join(lines[b:]),
    }


def words(text: str) -> list[str]:
    """Words parted by spaces, with <eos> at the end of every line."""
    return [word for line in text.splitlines() for word in (*line.split(), EOS)]


def build_corpus(text: str, unit: str, min_count: int = 1) -> Corpus:
    """Splits and numbers a text.

    Args:
      text: the whole text.
      unit: "byte" (UTF-8) or "word".
      min_count: words rarer than this in the training part become <unk>; words that the training
        part lacks always do.
    """
    if unit not in UNITS or min_count < 1:
        raise ValueError(f"unit must be one of {UNITS} and min_count >= 1: {unit!r}, {min_count}")
    parts = split_lines(text)
    if unit == "byte":
        codes = {k: np.frombuffer(v.encode(), np.uint8).astype(np.int32) for k, v in parts.items()}
        return Corpus(**codes, vocabulary=tuple(f"{b:02x}" for b in range(256)))
    split = {k: words(v) for k, v in parts.items()}
    counts = collections.Counter(split["train"])
    kept = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
    vocabulary = kept if UNKNOWN in kept else [*kept, UNKNOWN]
    index = {word: i for i, word in enumerate(vocabulary)}
    unknown = index[UNKNOWN]
    codes = {k: np.array([index.get(w, unknown) for w in v], np.int32) for k, v in split.items()}
    return Corpus(**codes, vocabulary=tuple(vocabulary))


def read_wikitext2(unit: str, min_count: int = 1, path: Path | None = None) -> Corpus:
    """The validation part of WikiText-2 as a corpus.

    Raises:
      FileNotFoundError: not on this machine; says what to do. ValueError: not gzipped UTF-8.
    """
    path = path or find_dataset("wikitext2") / FILE
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected gzipped UTF-8 text ({error})") from error
    return build_corpus(text, unit, min_count)


class Streams:
    """Training windows: each row of a batch reads its own part of the text from left to right.

    Row b of step s holds the window after that of row b of step s - 1, so a state carried from
    batch to batch has seen the text before it. At the end of the text a row starts again.
    """

    def __init__(self, tokens: np.ndarray, context: int, rows: int):
        """Args: tokens [N]; tokens predicted in a window; rows of a batch."""
        self._windows = (len(tokens) - 1) // (context * rows)
        if self._windows < 1 or context < 1:
            raise ValueError(f"{len(tokens)} tokens are too few for {rows} rows of {context}")
        self._tokens, self._context, self._rows = tokens, context, rows

    def __len__(self) -> int:
        return self._windows * self._rows

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `core.data.Source.get`; index = step * rows + row."""
        step, row = np.divmod(np.asarray(indices, np.int64), self._rows)
        start = (row * self._windows + step % self._windows) * self._context
        span = self._tokens[start[:, None] + np.arange(self._context + 1)]
        weight = np.ones((len(span), self._context), np.float32)
        return {"x": span[:, :-1], "target": span[:, 1:], "weight": weight}


class Windows:
    """Evaluation windows: every token but the first is predicted once, after some context.

    Window k predicts tokens 1 + k * stride ...; its first `context` inputs only warm the state up
    (weight 0). Where the text begins, the missing context is weightless padding.
    """

    def __init__(self, tokens: np.ndarray, stride: int, context: int):
        """Args: tokens [N]; tokens predicted in a window; inputs read before them."""
        if len(tokens) < 2 or stride < 1 or context < 0:
            raise ValueError(f"{len(tokens)} tokens, {stride=}, {context=}")
        self._tokens, self._stride, self._context = tokens, stride, context

    def __len__(self) -> int:
        return -(-(len(self._tokens) - 1) // self._stride)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `core.data.Source.get`."""
        start = np.asarray(indices, np.int64) * self._stride - self._context
        at = start[:, None] + np.arange(self._context + self._stride)
        asked = (np.arange(at.shape[1]) >= self._context) & (at + 1 < len(self._tokens))
        take = lambda i: self._tokens[np.clip(i, 0, len(self._tokens) - 1)]
        return {"x": take(at), "target": take(at + 1), "weight": asked.astype(np.float32)}
