# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation examples cut from a stream of tokens.

A source of examples has a length (examples in one epoch) and `get(indices)` for global example
indices without an upper bound; example g belongs to epoch g // len. The answer depends on nothing
but the indices, so that any host can compute any row of any batch:

  tokens     int32 [n, T + 1]   inputs are tokens[:, :-1], targets are tokens[:, 1:]
  reset      bool [n, T + 1]    the recurrent state is cleared before this token
  loss_mask  float32 [n, T]     1 where the target counts, 0 at padding

Successive windows share one token: the last target of one is the first input of the next.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from core.permute import shuffled
from rwkvjax.data.binidx import MmapTokens
from rwkvjax.data.magic_prime import check_magic_prime, magic_prime, window_starts

ORDERS = ("magic_prime", "shuffled", "sequential")


class TokenStore(Protocol):
    """A stream of tokens divided into documents; `MmapTokens` is one."""

    num_tokens: int
    dtype: np.dtype

    def window(self, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length)."""
        ...

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        """Increasing positions in [start, stop) at which documents start."""
        ...

    def document_bounds(self) -> np.ndarray:
        """int64 [documents + 1]: document i is [bounds[i], bounds[i + 1])."""
        ...


class ArrayTokens:
    """Documents in memory, as a `TokenStore`."""

    def __init__(self, documents: Sequence[np.ndarray], dtype: np.typing.DTypeLike = np.uint16):
        """Args: documents: integer arrays [k] that fit `dtype`, else ValueError."""
        self.dtype = np.dtype(dtype)
        arrays = [np.asarray(document) for document in documents]
        for array in arrays:
            if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
                raise ValueError(
                    f"a document is an integer array [k], got {array.dtype} {array.shape}"
                )
        lengths = np.array([len(array) for array in arrays], np.int64)
        self._bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.concatenate(arrays) if arrays else np.zeros(0, self.dtype)
        limits = np.iinfo(self.dtype)
        if flat.size and (int(flat.min()) < limits.min or int(flat.max()) > limits.max):
            raise ValueError(f"tokens {flat.min()} ... {flat.max()} do not fit {self.dtype}")
        self.tokens = flat.astype(self.dtype)
        self.num_tokens = len(self.tokens)

    def window(self, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length)."""
        return self.tokens[start : start + length]

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        """Increasing positions in [start, stop) at which documents start."""
        first, last = np.searchsorted(self._bounds[:-1], [start, stop])
        return np.unique(self._bounds[first:last])

    def document_bounds(self) -> np.ndarray:
        """int64 [documents + 1]."""
        return self._bounds


class TokenSlice:
    """Tokens [start, stop) of a store, as a `TokenStore`; nothing is copied."""

    def __init__(self, store: TokenStore, start: int, stop: int):
        if not 0 <= start <= stop <= store.num_tokens:
            raise ValueError(
                f"expected 0 <= start <= stop <= {store.num_tokens}, got {start=} {stop=}"
            )
        self._store, self._start = store, start
        self.num_tokens, self.dtype = stop - start, store.dtype

    def window(self, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length), cut at the end of the slice."""
        return self._store.window(self._start + start, min(length, self.num_tokens - start))

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        """Increasing positions in [start, stop) at which documents start; 0 always counts."""
        stop = min(stop, self.num_tokens)
        starts = self._store.document_starts(self._start + start, self._start + stop) - self._start
        return np.union1d([0], starts) if start <= 0 < stop else starts

    def document_bounds(self) -> np.ndarray:
        """int64 [documents + 1]; documents that stick out are cut."""
        bounds = self._store.document_bounds() - self._start
        inside = bounds[(bounds > 0) & (bounds < self.num_tokens)]
        return np.concatenate([[0], inside, [self.num_tokens]]).astype(np.int64)


def open_tokens(tokens: TokenStore | str | os.PathLike[str]) -> TokenStore:
    """A token store as it is, or the binidx file of that name."""
    return MmapTokens(tokens) if isinstance(tokens, str | os.PathLike) else tokens


@dataclasses.dataclass(frozen=True)
class WindowFormat:
    """What examples look like.

    Attributes:
      ctx: T, tokens that an example trains on.
      document_resets: clear the state at each document start inside a window. False: windows
        cross documents without notice, as in RWKV's own trainer.
      cross_document_loss: with resets, also train on the first token of a document, which can
        only be guessed from the end of the document before.
      pad: token id of padding.
      vocab_size: check that all tokens are smaller; None: do not.
    """

    ctx: int
    document_resets: bool = False
    cross_document_loss: bool = False
    pad: int = 0
    vocab_size: int | None = None

    def __post_init__(self):
        if self.ctx < 1:
            raise ValueError(f"ctx must be at least 1, got {self.ctx}")

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Examples that are all padding."""
        reset = np.zeros((rows, self.ctx + 1), bool)
        reset[:, 0] = True
        return {
            "tokens": np.full((rows, self.ctx + 1), self.pad, np.int32),
            "reset": reset,
            "loss_mask": np.zeros((rows, self.ctx), np.float32),
        }

    def read(self, store: TokenStore, start: int, length: int) -> np.ndarray:
        """Tokens of the store, checked; ValueError for ids that no model of the size has."""
        tokens = store.window(start, length)
        wide = tokens.dtype.itemsize > 4  # examples are int32
        if tokens.size and (wide or self.vocab_size is not None):
            low, high = int(tokens.min()), int(tokens.max())
            limit = self.vocab_size or 2**31
            if low < 0 or high >= limit:
                raise ValueError(
                    f"token ids from {low} to {high} in [{start}, {start + length}) of "
                    f"{getattr(store, 'path', 'the data')}, expected 0 to {limit - 1}"
                )
        return tokens


def checked_indices(indices: np.ndarray) -> np.ndarray:
    """Global example indices as int64 [n]; TypeError or ValueError for anything else."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise TypeError(
            f"example indices are an integer array [n], got {indices.dtype} {indices.shape}"
        )
    if indices.size and int(indices.min()) < 0:
        raise ValueError(f"example indices must not be negative, got {indices.min()}")
    return indices.astype(np.int64)


def check_store(store: TokenStore, format: WindowFormat, needed: int) -> None:
    """ValueError if the store's type or size cannot give examples of this format."""
    name = getattr(store, "path", "the data")
    if np.dtype(store.dtype).kind not in "iu":
        raise ValueError(f"{name}: expected integer tokens, found {store.dtype}")
    if store.num_tokens < needed:
        raise ValueError(
            f"{name}: ctx {format.ctx} needs at least {needed} tokens, found {store.num_tokens}"
        )


def stream_examples(
    store: TokenStore,
    starts: np.ndarray,
    format: WindowFormat,
    continued: np.ndarray | None = None,
    before_first: int = 0,
) -> dict[str, np.ndarray]:
    """Windows of the token stream, padded where they pass its end.

    Args:
      store: the tokens.
      starts: int64 [n], first token of each window; -1 puts `before_first` before the stream.
      format: shape and masks.
      continued: bool [n], windows that go on with the state of the window before; none by default.
      before_first: token id.

    Returns:
      Examples as in the module docstring.
    """
    batch = format.empty(len(starts))
    tokens, reset, mask = batch["tokens"], batch["reset"], batch["loss_mask"]
    if continued is not None:
        reset[:, 0] = ~continued
    for row, start in enumerate(starts.tolist()):
        first, stop = max(start, 0), min(start + format.ctx + 1, store.num_tokens)
        if stop <= first:
            continue
        tokens[row, 0] = before_first  # overwritten unless start is -1
        end = stop - start
        tokens[row, first - start : end] = format.read(store, first, stop - first)
        mask[row, : end - 1] = 1
        reset[row, end:][:1] = True  # padding does not belong to the document before it
        if format.document_resets:
            places = store.document_starts(first, stop) - start
            reset[row, places] = True
            if not format.cross_document_loss:
                mask[row, places[places > 0] - 1] = 0
    return batch


class BinidxWindows:
    """Windows of T + 1 tokens that start at multiples of T, for training.

    Orders:
      "magic_prime": the official trainer's, see `magic_prime`; the same in every epoch. The last
        windows of the file, those from the prime on, are never read.
      "shuffled": another permutation in every epoch; all full windows.
      "sequential": from the start to the end of the file.
    Up to T tokens at the end of the file, which do not fill a window, are left out.

    With `streams` = B, "sequential" reads B streams in parallel for training with carried state:
    row r of successive batches of size B reads successive windows of the r-th part of the file,
    and `reset` is false at the first token of a window that continues the one before.

    Attributes:
      num_tokens: tokens of the file.
      ctx: T.
    """

    def __init__(
        self,
        tokens: TokenStore | str | os.PathLike[str],
        ctx: int,
        order: str = "magic_prime",
        *,
        seed: int = 0,
        prime: int | None = None,
        streams: int | None = None,
        document_resets: bool = False,
        cross_document_loss: bool = False,
        vocab_size: int | None = None,
    ):
        """See the class.

        Args:
          tokens: a binidx file or a token store.
          ctx: T.
          order: one of the orders above.
          seed: of the order "shuffled".
          prime: of the order "magic_prime"; the largest fitting one by default.
          streams: batch size of the order "sequential" with carried state.
          document_resets, cross_document_loss, vocab_size: as in `WindowFormat`.

        Raises:
          ValueError: an unknown order, an option that belongs to another order, a prime that does
            not fit, or too few tokens.
        """
        if order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
        if prime is not None and order != "magic_prime":
            raise ValueError(f"prime belongs to the order 'magic_prime', got order {order!r}")
        if streams is not None and (order != "sequential" or streams < 1):
            raise ValueError(
                "streams, at least 1, belongs to the order 'sequential', "
                f"got {streams} and order {order!r}"
            )
        self._store = open_tokens(tokens)
        self._format = WindowFormat(ctx, document_resets, cross_document_loss, 0, vocab_size)
        check_store(self._store, self._format, (ctx * (streams or 1)) + 1)
        self.ctx, self.num_tokens = ctx, self._store.num_tokens
        self._order, self._seed, self._streams = order, seed, streams
        self._windows = (self.num_tokens - 1) // ctx
        if order == "magic_prime":
            if prime is None:
                prime = magic_prime(self.num_tokens, ctx)
            else:
                check_magic_prime(prime, self.num_tokens, ctx)
            self._windows = prime
        elif streams:
            self._windows = self._windows // streams * streams

    def __len__(self) -> int:
        """Examples in one epoch."""
        return self._windows

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples of the global indices [n]; see the module docstring."""
        indices = checked_indices(indices)
        continued = None
        if self._order == "magic_prime":
            starts = window_starts(indices + 1, self._windows, self.ctx)
        elif self._order == "shuffled":
            starts = shuffled(indices, self._windows, self._seed) * self.ctx
        elif self._streams is None:
            starts = indices % self._windows * self.ctx
        else:
            rounds = self._windows // self._streams
            steps, rows = indices // self._streams % rounds, indices % self._streams
            starts = (rows * rounds + steps) * self.ctx
            continued = steps > 0
        return stream_examples(self._store, starts, self._format, continued)


class SequentialWindows:
    """All tokens in order, each exactly once as a target, for evaluation (bits per byte).

    The stream is `bos` followed by the tokens; example k has the targets [k T, k T + T). The last
    example is padded. Indices past the end give examples of padding only, so that the last batch
    can keep its shape.

    Attributes:
      num_tokens: tokens of the data.
      num_targets: sum of all loss masks.
      ctx: T.
    """

    def __init__(
        self,
        tokens: TokenStore | str | os.PathLike[str],
        ctx: int,
        *,
        bos: int | None = 0,
        carry: bool = False,
        document_resets: bool = False,
        cross_document_loss: bool = True,
        vocab_size: int | None = None,
    ):
        """See the class.

        Args:
          tokens: a binidx file or a token store.
          ctx: T.
          bos: token before the first one, so that this can be predicted; RWKV uses its end of
            document, 0. None: the first token is only read.
          carry: windows continue the state of the window before; evaluate them one by one.
          document_resets, cross_document_loss, vocab_size: as in `WindowFormat`.

        Raises:
          ValueError: too few tokens.
        """
        self._store = open_tokens(tokens)
        self._format = WindowFormat(ctx, document_resets, cross_document_loss, 0, vocab_size)
        self._shift = 0 if bos is None else 1
        check_store(self._store, self._format, 2 - self._shift)
        self.ctx, self.num_tokens = ctx, self._store.num_tokens
        self._bos, self._carry = bos or 0, carry
        self._targets = self.num_tokens - 1 + self._shift

    @property
    def num_targets(self) -> int:
        """Sum of all loss masks."""
        if not self._format.document_resets or self._format.cross_document_loss:
            return self._targets
        starts = self._store.document_starts(1 - self._shift, self.num_tokens)
        return self._targets - len(starts)

    def __len__(self) -> int:
        """Examples, the padded last one included."""
        return -(-self._targets // self.ctx)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples of the indices [n]; padding for indices of `len` and above."""
        indices = checked_indices(indices)
        starts = np.minimum(indices, len(self)) * self.ctx - self._shift
        continued = indices > 0 if self._carry else None
        batch = stream_examples(self._store, starts, self._format, continued, self._bos)
        # Past the end at most the last token is read, without a target.
        batch["tokens"][indices >= len(self)] = self._format.pad
        return batch


def sequential_windows(
    tokens: TokenStore | str | os.PathLike[str], ctx: int, **options
) -> SequentialWindows:
    """`SequentialWindows(tokens, ctx, **options)`."""
    return SequentialWindows(tokens, ctx, **options)
