# SPDX-License-Identifier: Apache-2.0
"""Streaming gives what whole texts give, whatever the pieces."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rwkvjax.tokenizers import (
    ByteTokenizer,
    StreamDecoder,
    WorldTokenizer,
    encode_file,
    vocabulary_from_tokens,
)

WORDS = [b"ab", b"abc", b"abcdefgh", b"\xe6\x97", b"\xa5\xe6", "日本".encode(), b" " * 9]
TOKENS = {b + 1: bytes([b]) for b in range(256)} | {300 + i: w for i, w in enumerate(WORDS)}
SMALL = WorldTokenizer(vocabulary_from_tokens(TOKENS), native=False)
TOKENIZERS = [SMALL, ByteTokenizer()]
PIECES = st.lists(
    st.one_of(st.text(max_size=6), st.text(st.sampled_from("abcdefgh 日本"), max_size=12)),
    max_size=8,
)


def joined(parts) -> list[int]:
    return [int(i) for part in parts for i in part]


@given(ids=st.lists(st.sampled_from([0, *TOKENS]), max_size=30))
@example(ids=[int(i) for i in SMALL.encode("a\ufffdb日é😀")])
@example(ids=[0xE6 + 1, 0x97 + 1, ord("a") + 1, 0xF0 + 1, 0x9F + 1])
def test_decoder_equals_whole(ids):
    decoder = StreamDecoder(SMALL)
    for _ in range(2):  # flush leaves it as new
        assert "".join([decoder.push(i) for i in ids] + [decoder.flush()]) == SMALL.decode(ids)


def test_decoder_holds_back_unfinished_characters_only():
    decoder = StreamDecoder(ByteTokenizer())
    assert [decoder.push(b) for b in "a日b".encode()] == ["a", "", "", "日", "b"]
    assert [decoder.push(b) for b in "\ufffdx".encode()] == ["", "", "\ufffd", "x"]
    assert [decoder.push(b) for b in b"\xe6\x97A"] == ["", "", "\ufffdA"]
    assert decoder.push(0xF0) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


def test_decoder_errors():
    with pytest.raises(ValueError, match="id 299 is not in the vocabulary"):
        StreamDecoder(SMALL).push(299)
    decoder = StreamDecoder(ByteTokenizer(), errors="strict")
    assert decoder.push(0xE6) == ""
    with pytest.raises(UnicodeDecodeError):
        decoder.push(ord("A"))
    with pytest.raises(UnicodeDecodeError):
        decoder.flush()
    assert decoder.push(ord("A")) == "A"


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["world", "byte"])
@given(pieces=PIECES, block=st.sampled_from([1, 2, 5, 1000]))
def test_encode_iter_equals_whole(tokenizer, pieces, block):
    whole = tokenizer.encode("".join(pieces)).tolist()
    assert joined(tokenizer.encode_iter(pieces, block_bytes=block)) == whole
    assert joined(tokenizer.encode_iter([p.encode() for p in pieces], block)) == whole


@given(data=st.lists(st.sampled_from(WORDS), max_size=8).map(b"".join), block=st.integers(1, 12))
def test_encode_iter_byte_by_byte(data, block):
    chunks = (data[i : i + 1] for i in range(len(data)))
    assert joined(SMALL.encode_iter(chunks, block)) == SMALL.encode_bytes(data).tolist()


def test_encode_iter_keeps_little_waiting():
    """Blocks come out before the input has ended: memory does not grow with the text."""
    seen = 0

    def chunks():
        nonlocal seen
        for _ in range(100):
            seen += 1
            yield "abcdefgh" * 10

    first = next(SMALL.encode_iter(chunks(), block_bytes=100))
    assert seen == 2
    assert first.dtype == np.uint16 and first.size >= 18


def test_encode_iter_bad_input():
    with pytest.raises(ValueError, match="lone surrogate"):
        list(SMALL.encode_iter(["a", "\udfff"]))
    for tokenizer in TOKENIZERS:
        with pytest.raises(TypeError, match="expected bytes, got list"):
            list(tokenizer.encode_iter(["a", [1, 2]]))
    with pytest.raises(ValueError, match="block_bytes must be at least 1, got 0"):
        list(SMALL.encode_iter(["a"], block_bytes=0))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["world", "byte"])
def test_encode_file(tmp_path, tokenizer):
    data = "abc日本\r\nabcdefgh".encode() * 50 + b"\xff"
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    for block in (7, 1 << 20):
        parts = encode_file(tokenizer, path, block_bytes=block)
        assert joined(parts) == tokenizer.encode_bytes(data).tolist()
    with pytest.raises(FileNotFoundError):
        list(encode_file(tokenizer, tmp_path / "absent.txt"))
