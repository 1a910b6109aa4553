# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: bytes (the default) and the RWKV World vocabulary. NumPy only, no JAX.

tokenizer = get_tokenizer("world")
ids = tokenizer.encode("The Eiffel tower is in the city of")    # [10] uint16
text = tokenizer.decode(ids)
"""

import os
from pathlib import Path

from rwkvjax.tokenizers.base import Tokenizer
from rwkvjax.tokenizers.byte import ByteTokenizer
from rwkvjax.tokenizers.native import NativeUnavailableError
from rwkvjax.tokenizers.stream import StreamDecoder, encode_file
from rwkvjax.tokenizers.vocab import (
    WORLD_DIGEST,
    Vocabulary,
    find_world_file,
    load_vocabulary,
    parse_vocabulary,
    vocabulary_from_tokens,
)
from rwkvjax.tokenizers.world import WorldTokenizer

__all__ = [
    "WORLD_DIGEST",
    "ByteTokenizer",
    "NativeUnavailableError",
    "StreamDecoder",
    "Tokenizer",
    "Vocabulary",
    "WorldTokenizer",
    "decodable_ids",
    "encode_file",
    "find_world_file",
    "get_tokenizer",
    "load_vocabulary",
    "parse_vocabulary",
    "vocabulary_from_tokens",
]


def decodable_ids(tokenizer: Tokenizer) -> int:
    """Number of leading ids that have a text; the vocabulary size may be rounded up."""
    for last in range(tokenizer.vocab_size - 1, -1, -1):
        try:
            tokenizer.decode_bytes([last])
        except ValueError:
            continue
        return last + 1
    raise ValueError(f"the tokenizer {tokenizer.name!r} has no id that can be decoded")


def get_tokenizer(
    name: str | os.PathLike = "byte", *, expected_digest: str | None = WORLD_DIGEST
) -> Tokenizer:
    """Makes a tokenizer by name.

    Args:
        name: "byte", "world" (the published vocabulary, looked for on this machine), or the path of
            a vocabulary file.
        expected_digest: digest that the file must have; None accepts any vocabulary.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed or unexpected vocabulary.
    """
    if name == "byte":
        return ByteTokenizer()
    if name == "world":
        return WorldTokenizer.load(expected_digest=expected_digest)
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"expected 'byte', 'world' or the path of a vocabulary file, got {str(name)!r}"
        )
    return WorldTokenizer.load(name, expected_digest=expected_digest)
