# SPDX-License-Identifier: Apache-2.0
"""Bytes as tokens: no vocabulary file, no dependency; the default."""

from collections.abc import Iterable, Iterator

import numpy as np

from rwkvjax.tokenizers.base import byte_array, text_bytes
from rwkvjax.tokenizers.vocab import as_id_array, canonical_digest


class ByteTokenizer:
    """The id of a byte is its value.

    Id 0, a NUL byte, doubles as end of document: text that contains NUL survives a round trip but
    cannot be told from a separator.
    """

    name = "byte"
    vocab_size = 256
    end_of_document: int | None = 0
    digest = canonical_digest(np.arange(256, dtype=np.uint8), np.ones(256, np.int64))

    def encode(self, text: str) -> np.ndarray:
        """Ids [N] uint16 of the UTF-8 bytes; ValueError for lone surrogates."""
        return self.encode_bytes(text_bytes(text))

    def encode_bytes(self, data: bytes | bytearray | memoryview) -> np.ndarray:
        """Ids [N] uint16 of arbitrary bytes."""
        return byte_array(data).astype(np.uint16)

    def encode_iter(
        self, chunks: Iterable[str | bytes], block_bytes: int = 1 << 20
    ) -> Iterator[np.ndarray]:
        """Ids of each chunk in turn; `block_bytes` is accepted for the sake of the protocol."""
        for chunk in chunks:
            yield self.encode(chunk) if isinstance(chunk, str) else self.encode_bytes(chunk)

    def decode(self, ids, errors: str = "replace") -> str:
        """Text of ids [N]; by default U+FFFD stands for invalid UTF-8."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_bytes(self, ids) -> bytes:
        """Bytes of ids [N] in 0..255; ValueError names one outside."""
        return as_id_array(ids, 256).astype(np.uint8).tobytes()
