# SPDX-License-Identifier: Apache-2.0
"""Weighted mixtures of example sources with exact shares.

Which source gives the g-th example is not drawn at random but scheduled: among the first g
examples every source has had g w_s examples to within less than one, for every g. Drawing would
deviate by about sqrt(g); here a run of any length has seen the mixture that was asked for.

Weights are turned into whole numbers c_s of examples in a period of P: exactly where a period up
to `MAX_PERIOD` can express them, else by the method of largest remainders, with an error below
1 / P. The order within the period is the earliest-deadline-first schedule in which the k-th
example of source s (k = 1 ... c_s) must come in the slots [floor((k - 1) P / c_s),
ceil(k P / c_s)). Such a schedule exists and keeps the deviation below one: R. Tijdeman, "The
chairman assignment problem", Discrete Mathematics 32, 1980; S. Baruah et al., "Proportionate
progress", Algorithmica 15, 1996.

All examples have T targets, so that shares of examples are shares of tokens read.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np

from rwkvjax.data.windows import checked_indices

MAX_PERIOD = 1 << 16


class ExampleSource(Protocol):
    """What a mixture is made of; see `windows`."""

    ctx: int
    num_tokens: int

    def __len__(self) -> int: ...

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples of global indices."""
        ...


@dataclasses.dataclass(frozen=True)
class SourceUse:
    """What a run has taken from one source.

    Attributes:
      name: the source.
      weight: share that was asked for.
      share: share of the examples so far.
      examples: examples so far.
      tokens: targets of these examples (T each, padding included).
      epochs: passes over the source.
      source_tokens: tokens that the source holds.
    """

    name: str
    weight: float
    share: float
    examples: int
    tokens: int
    epochs: float
    source_tokens: int


def period_counts(weights: Sequence[float | Fraction], max_period: int = MAX_PERIOD) -> list[int]:
    """Whole numbers in proportion to the weights.

    A float counts as the decimal number that prints it (0.15 is 15/100).

    Args:
      weights: positive and finite; they need not add up to 1.
      max_period: largest sum of the numbers.

    Returns:
      Counts >= 1 without common factor. In exact proportion if their sum can stay within
      `max_period`, else rounded by largest remainders to the sum `max_period`.

    Raises:
      ValueError: a weight that is not positive and finite, or so small that it would round to 0
        (merge such a source with another one).
    """
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"mixture weights must be positive and finite, got {weight}")
    fractions = [Fraction(str(weight)) for weight in weights]
    total = sum(fractions)
    shares = [fraction / total for fraction in fractions]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= max_period:
        return [int(share * period) for share in shares]
    counts = [math.floor(share * max_period) for share in shares]
    remainders = [share * max_period - count for share, count in zip(shares, counts, strict=True)]
    by_remainder = sorted(range(len(shares)), key=lambda s: (-remainders[s], s))
    for source in by_remainder[: max_period - sum(counts)]:
        counts[source] += 1
    if min(counts) < 1:
        smallest = float(min(shares))
        raise ValueError(
            f"a mixture weight is too small: {smallest:.3g} of the sum, but a source "
            f"can have no less than 1 / {max_period}"
        )
    return [count // math.gcd(*counts) for count in counts]


def schedule(counts: Sequence[int]) -> np.ndarray:
    """Sources of the slots of one period, int32 [sum(counts)]; see the module docstring."""
    period = sum(counts)
    waiting = [(0, source) for source in range(len(counts))]  # (release, source)
    ready: list[tuple[int, int]] = []  # (deadline, source)
    placed = [0] * len(counts)
    slots = np.empty(period, np.int32)
    for slot in range(period):
        while waiting and waiting[0][0] <= slot:
            _, source = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(placed[source] + 1) * period // counts[source]), source))
        _, source = heapq.heappop(ready)
        slots[slot] = source
        placed[source] += 1
        if placed[source] < counts[source]:
            heapq.heappush(waiting, (placed[source] * period // counts[source], source))
    return slots


class Mixture:
    """Examples from several sources in fixed proportions; itself a source.

    Example g comes from source s(g), as that source's next example: its local index is the number
    of earlier examples of the same source, so that small sources repeat (reshuffled, if they
    shuffle) while large ones are still in their first epoch.

    Attributes:
      names: of the sources, in order.
      weights: shares realised, exact in the long run.
      ctx: T of all sources.
      num_tokens: tokens of all sources together.
    """

    def __init__(
        self,
        sources: Mapping[str, ExampleSource],
        weights: Mapping[str, float] | None = None,
    ):
        """See the class.

        Args:
          sources: by name.
          weights: by name; the number of tokens of each source by default.

        Raises:
          ValueError: no sources, names that do not match, unequal ctx, or bad weights.
        """
        if not sources:
            raise ValueError("a mixture needs at least one source")
        if weights is None:
            weights = {name: source.num_tokens for name, source in sources.items()}
        if set(weights) != set(sources):
            raise ValueError(
                f"weights must be for the sources {sorted(sources)}, got {sorted(weights)}"
            )
        contexts = {name: source.ctx for name, source in sources.items()}
        if len(set(contexts.values())) > 1:
            raise ValueError(f"all sources of a mixture must have the same ctx, got {contexts}")
        self.names = tuple(sources)
        self._sources = list(sources.values())
        self.ctx = self._sources[0].ctx
        self.num_tokens = sum(source.num_tokens for source in self._sources)
        self._counts = np.array(period_counts([weights[name] for name in self.names]), np.int64)
        self._asked = [weights[name] / math.fsum(weights.values()) for name in self.names]
        self._period = int(self._counts.sum())
        self.weights = tuple((self._counts / self._period).tolist())
        self._slots = schedule(self._counts.tolist())
        taken = self._slots[:, None] == np.arange(len(self.names))
        self._before = np.cumsum(taken, axis=0) - taken  # [period, sources], within the period

    def __len__(self) -> int:
        """Examples of all sources together: a nominal epoch, as sources end at different times."""
        return sum(len(source) for source in self._sources)

    def assign(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source number and local example index, both [n], of global indices [n]."""
        indices = checked_indices(indices)
        slots = indices % self._period
        sources = self._slots[slots]
        locals_ = indices // self._period * self._counts[sources] + self._before[slots, sources]
        return sources, locals_

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples of the global indices [n]; see `windows`."""
        sources, locals_ = self.assign(indices)
        batch: dict[str, np.ndarray] = {}
        for number, source in enumerate(self._sources):
            rows = np.flatnonzero(sources == number)
            # Asking for no rows, too, gives an empty batch its keys and types.
            if not len(rows) and (len(sources) or number):
                continue
            for name, values in source.get(locals_[rows]).items():
                shape = (len(sources), *values.shape[1:])
                batch.setdefault(name, np.zeros(shape, values.dtype))[rows] = values
        return batch

    def report(self, examples: int) -> list[SourceUse]:
        """What the first `examples` examples have taken from each source."""
        if examples < 0:
            raise ValueError(f"examples must not be negative, got {examples}")
        rounds, slot = divmod(examples, self._period)
        uses = []
        for number, (name, source) in enumerate(zip(self.names, self._sources, strict=True)):
            count = rounds * int(self._counts[number])
            if slot:
                count += int(np.count_nonzero(self._slots[:slot] == number))
            uses.append(
                SourceUse(
                    name=name,
                    weight=self._asked[number],
                    share=count / examples if examples else 0.0,
                    examples=count,
                    tokens=count * self.ctx,
                    epochs=count / len(source),
                    source_tokens=source.num_tokens,
                )
            )
        return uses


def format_report(uses: Sequence[SourceUse]) -> str:
    """A table of `Mixture.report` for the log."""
    width = max(len("source"), *(len(use.name) for use in uses))
    lines = [f"{'source':<{width}}  {'asked':>7}  {'share':>7}  {'tokens':>16}  {'epochs':>9}"]
    for use in uses:
        lines.append(
            f"{use.name:<{width}}  {use.weight:>7.2%}  {use.share:>7.2%}  {use.tokens:>16,}  "
            f"{use.epochs:>9.3f}"
        )
    return "\n".join(lines)
