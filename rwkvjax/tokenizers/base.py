# SPDX-License-Identifier: Apache-2.0
"""What every tokenizer offers."""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back; bytes are first-class, since tokens may end inside a character.

    Attributes:
        name: short name for logs and configs.
        digest: hex sha256 of the vocabulary; data made with another digest has other ids.
        vocab_size: rows of a model's embedding, at least the highest id + 1.
        end_of_document: id that separates documents, or None.
    """

    name: str
    digest: str
    vocab_size: int
    end_of_document: int | None

    def encode(self, text: str) -> np.ndarray:
        """Ids [N] uint16 of a text; nothing is normalised or added."""

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """Ids [N] uint16 of arbitrary bytes."""

    def encode_iter(
        self, chunks: Iterable[str | bytes], block_bytes: int = 1 << 20
    ) -> Iterator[np.ndarray]:
        """Ids of a text that comes in chunks: joined, they equal those of the joined chunks."""

    def decode(self, ids, errors: str = "replace") -> str:
        """Text of ids [N]; `errors` as in `bytes.decode`, by default U+FFFD for invalid UTF-8."""

    def decode_bytes(self, ids) -> bytes:
        """Bytes of ids [N]; ValueError names an id that is not in the vocabulary."""


def text_bytes(text: str) -> bytes:
    """UTF-8 bytes of a text.

    Raises:
        TypeError: not a str.
        ValueError: the text holds a lone surrogate, which has no UTF-8 form.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected a str, got {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at index {error.start},"
            " which UTF-8 cannot express; read files with errors='replace' or encode bytes"
        ) from None


def byte_array(data: bytes | bytearray | memoryview) -> np.ndarray:
    """The bytes as uint8 [n], without a copy; TypeError for anything but bytes."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"expected bytes, got {type(data).__name__}")
    return np.frombuffer(data, np.uint8)
