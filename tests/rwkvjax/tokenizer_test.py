# SPDX-License-Identifier: Apache-2.0
"""Encoding and decoding: published encodings, all paths against the definition, bad input."""

import gzip
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.datasets import find_dataset
from rwkvjax.tokenizers import (
    WORLD_DIGEST,
    ByteTokenizer,
    Tokenizer,
    WorldTokenizer,
    get_tokenizer,
    vocabulary_from_tokens,
)
from rwkvjax.tokenizers import native as native_module
from rwkvjax.tokenizers import world as world_module
from rwkvjax.tokenizers.double_array import build_double_array
from rwkvjax.tokenizers.greedy import encode_loop, encode_reference, encode_vectorized
from rwkvjax.tokenizers.split import cut_pairs, find_cuts

# Ten encodings on which pip `rwkv` 0.8.32 and `pyrwkv-tokenizer` 0.9.1 agree.
PUBLISHED = [
    (
        "The Eiffel tower is in the city of",
        "6699 304 25740 109 39990 4600 4596 22590 30449 4706",
    ),
    ("User: hi\n\nAssistant:", "24281 59 4571 261 5585 41693 59"),
    (
        "我们发现，在东京旅游的最佳时间是春天。",
        "12605 10402 10997 14446 19137 11454 10272 10362 13042 13953 14734 13188 10475 13064 17734"
        " 13091 13087 11639 10080",
    ),
    (
        "起業家イーロン・マスク氏が創業した宇宙開発企業「スペースX」",
        "16944 13436 11920 10169 10242 10237 10239 10241 10222 10189 10179 13651 10108 10827 13436"
        " 43347 11887 11898 17693 14728 10412 13436 10088 10189 10218 43528 89 10089",
    ),
    (
        "안녕하세요, 세계! 오늘 날씨가 좋네요.",
        "18815 3266 150 19052 18777 18862 45 48275 34 23129 18586 23007 18812 18495 23165 18569"
        " 18862 47",
    ),
    (
        "Привет, как дела? Съешь ещё этих мягких французских булок.",
        "27858 27950 27930 45 48025 57689 64 5079 2820 27932 2822 48005 48199 2815 32737 2797"
        " 42829 65237 54687 57649 2804 47",
    ),
    (
        "مرحبا بالعالم، كيف حالك اليوم؟",
        "2949 2934 2930 2925 2924 48211 2942 28211 2949 2918 5152 28243 5142 28211 2947 32829"
        " 28246 2949 217 160",
    ),
    (
        "नमस्ते दुनिया, आप कैसे हैं?",
        "9473 9477 9484 9495 9469 9492 22877 9490 9473 9488 9478 9487 45 22873 9474 22874 9493"
        " 9484 9492 22886 9493 9458 64",
    ),
    (
        "def f(x):\n    return x ** 2  # square\n\n\tprint(f(12345.678e-9))\r\n",
        "7334 337 41 121 501 28352 42178 355 3448 285 267 36 47379 3327 35433 41 103 41 632 654"
        " 54 47 687 57 102 46 58 494 263",
    ),
    ("    leading and trailing   ", "19250 49366 21265 57451 3340"),
]


def small_tokens() -> dict[int, bytes]:
    """A vocabulary made here: 256 bytes and words that share prefixes, with gaps in the ids."""
    words = "a ab abc abcdef abd bc b\n the  the then cde \n\n é éa 日本 本 日本語 \x00\x00".split(
        " "
    )
    words += [" ", "  ", " " * 16, " " * 70, "t" * 300]
    extra = [w.encode() for w in dict.fromkeys(words) if len(w.encode()) > 1]
    extra += [b"\xff\xfe", b"\xff\xff\xff\xff", b"\xa5\x9c", b"\xe6\x97"]
    tokens = {b + 1: bytes([b]) for b in range(256)}
    tokens.update({300 + 3 * i: word for i, word in enumerate(dict.fromkeys(extra))})
    return tokens


SMALL = vocabulary_from_tokens(small_tokens())
SMALL_TABLE = build_double_array(SMALL)
HAS_NATIVE = native_module.native_problem() == ""
needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="no compiled tokenizer on this machine")
PATHS = [pytest.param(True, marks=needs_native, id="native"), pytest.param(False, id="numpy")]


@pytest.fixture(scope="module", params=PATHS)
def world(request) -> WorldTokenizer:
    try:
        return WorldTokenizer.load(native=request.param)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def world_tokens(world) -> dict[bytes, int]:
    return world.vocabulary.tokens()


@pytest.fixture(scope="module", params=PATHS)
def small(request) -> WorldTokenizer:
    return WorldTokenizer(SMALL, name="small", vocab_size=1024, native=request.param)


def texts_from(alphabet: str, max_size: int = 80):
    return st.text(st.sampled_from(alphabet), max_size=max_size)


# Text that hits the small vocabulary often, mixed with arbitrary text.
TEXT = st.one_of(st.text(max_size=40), texts_from("abcdefthn \né日本語\x00"))
DATA = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from(list(small_tokens().values())), max_size=20).map(b"".join),
)


class TestPublished:
    def test_ten_encodings(self, world):
        for text, ids in PUBLISHED:
            assert world.encode(text).tolist() == [int(i) for i in ids.split()]
            assert world.decode([int(i) for i in ids.split()]) == text

    def test_stored_cases(self, world):
        try:
            path = find_dataset("rwkv_vocab") / "token_cases.jsonl.gz"
        except FileNotFoundError as error:
            pytest.skip(str(error))
        if not path.is_file():
            pytest.skip(f"{path.parent} has the vocabulary but no token_cases.jsonl.gz")
        with gzip.open(path, "rt", encoding="utf-8") as file:
            cases = [json.loads(line) for line in file]
        assert len(cases) == 198
        for case in cases:
            assert world.encode(case["text"]).tolist() == case["ids"]
            assert world.decode(case["ids"]) == case["text"]

    def test_known_ids(self, world):
        spaces = {n: world.encode(" " * n).tolist() for n in (1, 59, 62, 64, 72, 74, 128)}
        assert all(len(ids) == 1 for ids in spaces.values())
        assert spaces[128] == [65529]
        assert world.encode("\n\n\n").tolist() == [3328]
        assert world.encode_bytes(bytes(range(256)))[0] == 1
        assert (world.name, world.vocab_size, world.digest) == ("world", 65536, WORLD_DIGEST)

    def test_end_of_document_and_unused_ids(self, world):
        assert world.end_of_document == 0
        assert world.decode_bytes([0, 98, 0]) == b"a"
        for bad in (65530, 65535):
            with pytest.raises(ValueError, match=f"id {bad} is not in the vocabulary"):
                world.decode([98, bad])

    def test_cuts_hold_for_newline_before_printable_ascii(self, world):
        pairs = cut_pairs(world.vocabulary)
        assert pairs[[10 * 256 + c for c in range(0x21, 0x7F)]].all()
        assert pairs.sum() == 65536 - 8333
        # A space after the newline would change the tokens: a cut there must not be allowed.
        assert not pairs[10 * 256 + ord(" ")]
        halves = [*world.encode("a\n"), *world.encode(" b")]
        assert world.encode("a\n b").tolist() != halves

    def test_tables_are_small(self, world):
        table, vocabulary = world._table, world.vocabulary
        held = table.nbytes + sum(column.nbytes for column in table.columns)
        held += vocabulary.data.nbytes + vocabulary.offsets.nbytes + vocabulary.lengths.nbytes
        assert held + world._cut_pairs.nbytes < 5_000_000

    def test_every_token_encodes_to_itself(self, world):
        tokens = world.vocabulary.tokens()
        assert len(tokens) == 65529
        ids = np.arange(1, 65530, dtype=np.uint16)
        assert world.decode_bytes(ids) == b"".join(tokens)
        step = 1 if world.is_native else 19
        for token, token_id in list(tokens.items())[::step]:
            assert world.encode_bytes(token).tolist() == [token_id]

    @given(text=TEXT)
    def test_world_equals_the_definition(self, world, world_tokens, text):
        expected = encode_reference(world_tokens, text.encode())
        np.testing.assert_array_equal(world.encode(text), expected)
        array = np.frombuffer(text.encode(), np.uint8)
        np.testing.assert_array_equal(encode_vectorized(world._table, array), expected)
        assert world.decode(expected) == text


class TestPaths:
    def test_reference_by_hand(self):
        tokens = {token: i for i, token in small_tokens().items()}
        ids = encode_reference(tokens, b"abcdabcdefx")
        assert [small_tokens()[int(i)] for i in ids] == [b"abc", b"d", b"abcdef", b"x"]

    @given(data=DATA)
    def test_all_paths_agree(self, small, data):
        tokens = {token: i for i, token in small_tokens().items()}
        expected = encode_reference(tokens, data)
        ids = small.encode_bytes(data)
        assert ids.dtype == np.uint16
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(encode_loop(SMALL_TABLE, data), ids)
        array = np.frombuffer(data, np.uint8)
        np.testing.assert_array_equal(encode_vectorized(SMALL_TABLE, array), ids)
        assert small.decode_bytes(ids) == data

    @given(text=TEXT)
    def test_text_round_trip(self, small, text):
        assert small.decode(small.encode(text), errors="strict") == text

    @given(words=st.sets(st.binary(min_size=2, max_size=5), max_size=40), data=st.data())
    def test_any_vocabulary(self, words, data):
        tokens = {b + 1: bytes([b]) for b in range(256)}
        tokens.update({1000 + i: word for i, word in enumerate(sorted(words))})
        vocabulary = vocabulary_from_tokens(tokens)
        parts = st.one_of(st.binary(max_size=3), st.sampled_from(sorted(words) or [b""]))
        content = b"".join(data.draw(st.lists(parts, max_size=12)))
        expected = encode_reference({t: i for i, t in tokens.items()}, content)
        for native in (True, False) if HAS_NATIVE else (False,):
            tokenizer = WorldTokenizer(vocabulary, native=native)
            np.testing.assert_array_equal(tokenizer.encode_bytes(content), expected)
        ids = encode_vectorized(tokenizer._table, np.frombuffer(content, np.uint8))
        np.testing.assert_array_equal(ids, expected)

    def test_crowded_vocabulary(self):
        """All two-byte and many three-byte tokens: nodes with 256 children fill the table."""
        random = np.random.default_rng(1)
        words = [bytes([a, b]) for a in range(0, 256, 8) for b in range(256)]
        words += [bytes([65, b, c]) for b in range(0, 256, 4) for c in range(256)]
        tokens = {i + 1: word for i, word in enumerate([bytes([b]) for b in range(256)] + words)}
        table = build_double_array(vocabulary_from_tokens(tokens))
        data = random.choice([65, 65, 64, 3], 3000).astype(np.uint8)
        expected = encode_reference({t: i for i, t in tokens.items()}, data.tobytes())
        np.testing.assert_array_equal(encode_vectorized(table, data), expected)
        np.testing.assert_array_equal(encode_loop(table, data.tobytes()), expected)

    def test_single_bytes_only(self, small):
        tokens = {b + 1: bytes([b]) for b in range(256)}
        tokenizer = WorldTokenizer(vocabulary_from_tokens(tokens), native=small.is_native)
        data = bytes(range(256))
        assert tokenizer.encode_bytes(data).tolist() == list(range(1, 257))
        assert tokenizer.decode_bytes(range(1, 257)) == data

    def test_long_text_across_blocks_and_buffers(self, small):
        """Crosses the block size of the NumPy path and the scratch buffer of the compiled one.

        "yx" is inside no token, so a repeated text gives its ids repeated.
        """
        tokens = {t: i for i, t in small_tokens().items()}
        words = list(tokens)
        order = np.random.default_rng(0).integers(len(words), size=1000)
        text = b"x" + b"".join(words[i] for i in order) + b"y"
        ids = encode_reference(tokens, text)
        repeats = (1 << 17) // len(text) + 1
        np.testing.assert_array_equal(small.encode_bytes(text * repeats), np.tile(ids, repeats))
        assert small.decode_bytes(np.tile(ids, repeats)) == text * repeats

    @needs_native
    @settings(max_examples=40)
    @given(data=st.lists(DATA, max_size=8).map(b"".join), threads=st.integers(2, 5))
    def test_parallel_equals_one_thread(self, data, threads):
        one = WorldTokenizer(SMALL, threads=1, native=True)
        many = WorldTokenizer(SMALL, threads=threads, native=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world_module, "_PARALLEL_BYTES", 1)
            np.testing.assert_array_equal(many.encode_bytes(data), one.encode_bytes(data))

    @needs_native
    def test_world_in_parallel(self, world):
        text = "\n".join(text for text, _ in PUBLISHED) * 4000
        many = WorldTokenizer(world.vocabulary, threads=4, native=True)
        assert len(text.encode()) > 1 << 20
        np.testing.assert_array_equal(many.encode(text), world.encode(text))

    @given(data=DATA, pieces=st.integers(1, 9))
    def test_cuts_lie_on_token_borders(self, data, pieces):
        array = np.frombuffer(data, np.uint8)
        cuts = find_cuts(cut_pairs(SMALL), array, pieces)
        assert cuts[0] == 0 and cuts[-1] == len(data) and len(cuts) <= pieces + 1
        assert len(data) == 0 or all(a < b for a, b in zip(cuts, cuts[1:], strict=False))
        lengths = SMALL.lengths[encode_loop(SMALL_TABLE, data)]
        assert set(cuts) <= {0, *np.cumsum(lengths, dtype=int).tolist()}

    def test_no_cut_without_a_free_pair(self):
        data = np.frombuffer(b" " * 10_000, np.uint8)
        assert find_cuts(cut_pairs(SMALL), data, 4) == [0, 10_000]
        mixed = np.frombuffer(b" " * 7_000 + b"xy" + b" " * 5_000, np.uint8)
        # Parts begin at 3000, 6001 and 9001 at the earliest; only the second has a free pair.
        assert find_cuts(cut_pairs(SMALL), mixed, 4) == [0, 7_000, 12_002]

    def test_buffers(self, small):
        for data in (b"abcd", bytearray(b"abcd"), memoryview(b"xabcdefx")[1:5]):
            assert small.encode_bytes(data).tolist() == small.encode("abcd").tolist()
        assert small.encode("").size == small.encode_bytes(b"").size == 0
        assert small.decode([]) == ""

    def test_pickle(self, small):
        again = pickle.loads(pickle.dumps(small))
        assert again.is_native == small.is_native
        assert again.encode("abcde").tolist() == small.encode("abcde").tolist()
        assert again.decode(again.encode("日本語")) == "日本語"


class TestBadInput:
    def test_lone_surrogate(self, small):
        for tokenizer in (small, ByteTokenizer()):
            with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at index 2"):
                tokenizer.encode("ab\ud800")

    def test_wrong_types(self, small):
        for tokenizer in (small, ByteTokenizer()):
            with pytest.raises(TypeError, match="expected a str, got bytes"):
                tokenizer.encode(b"ab")
            with pytest.raises(TypeError, match="expected bytes, got str"):
                tokenizer.encode_bytes("ab")
            with pytest.raises(TypeError, match="integers, got dtype float64"):
                tokenizer.decode([1.5])
            with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
                tokenizer.decode([[1, 2]])

    @pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int32])
    def test_unassigned_id(self, small, dtype):
        with pytest.raises(ValueError, match="id 257 is not in the vocabulary"):
            small.decode(np.array([1, 0, 257, 258], dtype))

    def test_ids_out_of_range(self, small):
        for bad in (-1, 65536, 2**40):
            with pytest.raises(ValueError, match=f"id {bad} is outside"):
                small.decode([97, bad])
        with pytest.raises(ValueError, match="id 256 is outside 0..255"):
            ByteTokenizer().decode(np.array([256], np.uint16))

    def test_invalid_utf8(self, small):
        ids = small.encode_bytes("é".encode()[:1])
        assert small.decode(ids) == "\ufffd"
        assert small.decode(ids, errors="ignore") == ""
        with pytest.raises(UnicodeDecodeError):
            small.decode(ids, errors="strict")

    def test_constructor(self):
        with pytest.raises(ValueError, match="vocab_size must be .*got 300"):
            WorldTokenizer(SMALL, vocab_size=300, native=False)
        with pytest.raises(ValueError, match="threads must be at least 1 or None, got 0"):
            WorldTokenizer(SMALL, threads=0, native=False)


class TestByteTokenizer:
    @given(data=st.binary())
    def test_bytes_round_trip(self, data):
        ids = ByteTokenizer().encode_bytes(data)
        assert ids.dtype == np.uint16 and ids.tolist() == list(data)
        assert ByteTokenizer().decode_bytes(ids) == data

    @given(text=st.text())
    def test_text_round_trip(self, text):
        assert ByteTokenizer().decode(ByteTokenizer().encode(text), "strict") == text

    def test_attributes(self):
        tokenizer = get_tokenizer()
        assert isinstance(tokenizer, ByteTokenizer)
        assert (tokenizer.name, tokenizer.vocab_size, tokenizer.end_of_document) == ("byte", 256, 0)
        assert tokenizer.decode_bytes([0]) == b"\x00"
        assert len(tokenizer.digest) == 64


def test_protocol(small):
    assert isinstance(small, Tokenizer)
    assert isinstance(ByteTokenizer(), Tokenizer)
    assert not isinstance("byte", Tokenizer)
