# SPDX-License-Identifier: Apache-2.0
"""The RWKV World tokenizer: greedy longest match on UTF-8 bytes."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rwkvjax.tokenizers.base import byte_array, text_bytes
from rwkvjax.tokenizers.double_array import build_double_array
from rwkvjax.tokenizers.greedy import encode_numpy
from rwkvjax.tokenizers.native import NativeCoder, use_native
from rwkvjax.tokenizers.split import cut_pairs, find_cuts
from rwkvjax.tokenizers.stream import encode_blocks
from rwkvjax.tokenizers.vocab import NUM_IDS, WORLD_DIGEST, Vocabulary, load_vocabulary

_PARALLEL_BYTES = 1 << 20  # shorter texts are encoded by one thread
_PARTS_PER_THREAD = 4


class WorldTokenizer:
    """Longest match over a vocabulary of the World kind.

    There is no normalisation, no pre-tokenisation and no start token. Id 0 ends a document and
    decodes to nothing. Instances are immutable, shared freely between threads, and picklable.
    """

    end_of_document: int | None = 0

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        name: str = "world",
        vocab_size: int = NUM_IDS,
        threads: int | None = None,
        native: bool | None = None,
    ):
        """See `WorldTokenizer.load` for the published vocabulary.

        Args:
            vocabulary: the tokens.
            name: for logs and configs.
            vocab_size: rows of the model's embedding.
            threads: threads for texts of a MiB and more (compiled path only); None takes all CPUs
                that this process may use, 1 never starts any.
            native: True demands the compiled path, False the NumPy path; None lets the
                environment variable RWKVJAX_NATIVE decide (see `native.py`).
        """
        if not vocabulary.last_id < vocab_size <= NUM_IDS:
            raise ValueError(
                f"vocab_size must be {vocabulary.last_id + 1}..{NUM_IDS}, got {vocab_size}"
            )
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1 or None, got {threads}")
        self.name = name
        self.digest = vocabulary.digest
        self.vocab_size = vocab_size
        self.vocabulary = vocabulary
        self._table = build_double_array(vocabulary)
        self._cut_pairs = cut_pairs(vocabulary)
        self._threads = threads or _available_cpus()
        self._wanted = native
        self._coder = self._make_coder()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike | None = None,
        *,
        expected_digest: str | None = WORLD_DIGEST,
        vocab_size: int = NUM_IDS,
        threads: int | None = None,
        native: bool | None = None,
    ) -> "WorldTokenizer":
        """Reads a vocabulary file; None finds the published one.

        Args:
            path, expected_digest: as in `load_vocabulary`; errors too.
            vocab_size, threads, native: as in `WorldTokenizer`.
        """
        vocabulary = load_vocabulary(path, expected_digest)
        world = path is None or vocabulary.digest == WORLD_DIGEST
        name = "world" if world else Path(path or "").stem
        return cls(vocabulary, name=name, vocab_size=vocab_size, threads=threads, native=native)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._coder = self._make_coder()  # this may be another machine

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_coder": None}

    def _make_coder(self) -> NativeCoder | None:
        return NativeCoder(self._table, self.vocabulary) if use_native(self._wanted) else None

    @property
    def is_native(self) -> bool:
        """Whether the compiled path is in use."""
        return self._coder is not None

    def encode(self, text: str) -> np.ndarray:
        """Ids [N] uint16 of a text; ValueError for lone surrogates."""
        return self.encode_bytes(text_bytes(text))

    def encode_bytes(self, data: bytes | bytearray | memoryview) -> np.ndarray:
        """Ids [N] uint16 of arbitrary bytes."""
        coder = self._coder
        if coder is None:
            return encode_numpy(self._table, byte_array(data))
        if type(data) is bytes and (len(data) < _PARALLEL_BYTES or self._threads == 1):
            return coder.encode(data)
        array = byte_array(data)
        address = array.ctypes.data
        if array.size < _PARALLEL_BYTES or self._threads == 1:
            return coder.encode_at(address, array.size)
        # More parts than threads: a thread on a busy core does fewer of them.
        cuts = find_cuts(self._cut_pairs, array, _PARTS_PER_THREAD * self._threads)
        with ThreadPoolExecutor(self._threads) as pool:
            jobs = [
                pool.submit(coder.encode_at, address + start, stop - start)
                for start, stop in zip(cuts, cuts[1:], strict=False)
            ]
            return np.concatenate([job.result() for job in jobs])

    def encode_iter(
        self, chunks: Iterable[str | bytes], block_bytes: int = 1 << 20
    ) -> Iterator[np.ndarray]:
        """Ids of a text that comes in chunks, exact across their borders.

        Args:
            chunks: texts or bytes of any size, for instance an open file.
            block_bytes: how much to gather before encoding.

        Yields:
            ids [N] uint16; joined, they equal ``encode`` of the joined chunks.
        """
        vocabulary = self.vocabulary
        return encode_blocks(
            self.encode_bytes, vocabulary.lengths, vocabulary.max_length, chunks, block_bytes
        )

    def decode(self, ids, errors: str = "replace") -> str:
        """Text of ids [N].

        Args:
            ids: integers; 0 stands for nothing.
            errors: as in `bytes.decode`. "replace" puts U+FFFD for bytes that are not UTF-8, which
                happens when ids end inside a character; "strict" raises UnicodeDecodeError.

        Raises:
            ValueError: names an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_bytes(self, ids) -> bytes:
        """Bytes of ids [N]; ValueError names an id that is not in the vocabulary."""
        array = self.vocabulary.check_ids(ids)
        lengths = self.vocabulary.lengths[array]
        total = int(lengths.sum(dtype=np.int64))
        if self._coder is not None:
            return self._coder.decode(array, total)
        lengths = lengths.astype(np.int64)
        # Byte k of the result comes from data[k + (start of its token - where the token is put)].
        shift = self.vocabulary.offsets[array] - (np.cumsum(lengths) - lengths)
        return self.vocabulary.data[np.arange(total) + np.repeat(shift, lengths)].tobytes()


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
