# SPDX-License-Identifier: Apache-2.0
"""Encoding and decoding piece by piece, with the same result as all at once."""

import codecs
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rwkvjax.tokenizers.base import Tokenizer, byte_array, text_bytes


class StreamDecoder:
    """Turns ids into text one at a time and never splits a character.

    Bytes that are the beginning of a UTF-8 character are held back until it is complete or cannot
    become valid any more. A U+FFFD that stands in the text itself passes like any character.

    Example:
        decoder = StreamDecoder(tokenizer)
        for token_id in generated:
            print(decoder.push(token_id), end="")
        print(decoder.flush())
    """

    def __init__(self, tokenizer: Tokenizer, errors: str = "replace"):
        """`errors` as in `bytes.decode`: what to do with invalid UTF-8."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, token_id: int) -> str:
        """Text that became certain with this id, possibly empty."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """Text of the bytes held back, an incomplete character; the decoder is as new after it."""
        try:
            return self._decoder.decode(b"", final=True)
        finally:
            self._decoder.reset()


def encode_blocks(
    encode: Callable[[bytes], np.ndarray],
    lengths: np.ndarray,
    max_length: int,
    chunks: Iterable[str | bytes],
    block_bytes: int,
) -> Iterator[np.ndarray]:
    """Longest-match ids of the joined chunks, in arrays [N] uint16.

    A token is final as soon as `max_length` bytes from its start are known, because no more can
    take part in its match. The rest, less than `max_length` bytes, waits for the next block.

    Args:
        encode: longest match of bytes.
        lengths: bytes of each token by id.
        max_length: bytes of the longest token.
        chunks: texts or bytes, of any size; chunks of bytes may end inside a character.
        block_bytes: how much to gather before encoding.
    """
    if block_bytes < 1:
        raise ValueError(f"block_bytes must be at least 1, got {block_bytes}")
    waiting = bytearray()
    for chunk in chunks:
        waiting += text_bytes(chunk) if isinstance(chunk, str) else byte_array(chunk).data
        if len(waiting) < block_bytes + max_length:
            continue
        ids = encode(bytes(waiting))
        ends = np.cumsum(lengths[ids], dtype=np.int64)
        starts = ends - lengths[ids]
        final = int(np.searchsorted(starts, len(waiting) - max_length, side="right"))
        yield ids[:final]
        del waiting[: int(ends[final - 1])]
    if waiting:
        yield encode(bytes(waiting))


def encode_file(
    tokenizer: Tokenizer, path: str | os.PathLike, block_bytes: int = 1 << 20
) -> Iterator[np.ndarray]:
    """Ids of a file of any size, in arrays [N] uint16; its bytes are taken as they are.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with open(path, "rb") as file:
        yield from tokenizer.encode_iter(iter(lambda: file.read(block_bytes), b""), block_bytes)
