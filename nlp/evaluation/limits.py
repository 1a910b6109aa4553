# SPDX-License-Identifier: Apache-2.0
"""Rates, waiting after failures, and money."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import math
import random
import time
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from nlp.evaluation.records import Request, Response

Clock = Callable[[], float]


class RateLimiter:
    """Spaces requests evenly, so that no minute holds more than the configured numbers.

    Requests start at least 60 / `requests_per_minute` seconds apart; a request of n tokens also
    occupies n / `tokens_per_minute` minutes. 0 means no limit. `pause` stops everybody, for
    Retry-After.
    """

    def __init__(
        self,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        clock: Clock = time.monotonic,
    ):
        if requests_per_minute < 0 or tokens_per_minute < 0:
            raise ValueError("rates must not be negative")
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._free = -math.inf  # when the next request may start
        self._paused_until = -math.inf

    def reserve(self, tokens: int) -> float:
        """Takes the next place in time; returns when it begins (clock seconds)."""
        start = max(self._clock(), self._free, self._paused_until)
        self._free = start + max(self._per_request, tokens * self._per_token)
        return start

    async def wait(self, tokens: int, stopping: asyncio.Event | None = None) -> bool:
        """Sleeps until a request of `tokens` may start; False if `stopping` is set meanwhile."""
        while True:
            start = self.reserve(tokens)
            while (left := start - self._clock()) > 0:
                if await sleep(left, stopping):
                    return False
            if self._paused_until <= self._clock():
                return True
            # A pause began meanwhile: queue anew, or all who wait would start together after it.

    def correct(self, estimated: int, used: int) -> None:
        """Moves the next place by the tokens that an estimate was off."""
        if self._per_token and used > estimated:
            self._free += (used - estimated) * self._per_token

    def pause(self, seconds: float) -> None:
        """Lets nobody start for `seconds`."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)


async def sleep(seconds: float, stopping: asyncio.Event | None = None) -> bool:
    """Sleeps, but not longer than until `stopping` is set; returns whether it is."""
    if stopping is None:
        await asyncio.sleep(seconds)
        return False
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
    return stopping.is_set()


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Exponential waiting with full jitter: uniform in [0.5, 1] of min(cap, base 2^attempt) s."""

    base: float = 1.0
    cap: float = 60.0

    def seconds(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after failure number `attempt` (from 0)."""
        return min(self.cap, self.base * 2.0 ** min(attempt, 30)) * rng.uniform(0.5, 1.0)


def retry_after(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Seconds of a Retry-After header (a number or an HTTP date); None if absent or unreadable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, seconds), 86_400.0) if math.isfinite(seconds) else None


# --- money ---------------------------------------------------------------------------------------


def estimate_tokens(text: str) -> int:
    """A usual number of tokens: a quarter of the bytes, plus one."""
    return len(text.encode("utf-8", "replace")) // 4 + 1


def most_tokens(request: Request) -> int:
    """More tokens than a prompt can have: one for each byte, and some for each message."""
    return sum(len(text.encode("utf-8", "replace")) + 16 for _, text in request.messages)


@dataclasses.dataclass(frozen=True)
class Prices:
    """Money for a million tokens, exact decimals."""

    prompt: Decimal = Decimal(0)
    completion: Decimal = Decimal(0)

    @classmethod
    def parse(cls, prompt: str, completion: str) -> Prices:
        """From strings such as "0.15".

        Raises:
          ValueError: not decimal numbers of at least 0.
        """
        try:
            prices = cls(Decimal(prompt or "0"), Decimal(completion or "0"))
        except InvalidOperation as error:
            raise ValueError(
                f"prices must be decimal numbers: {prompt!r}, {completion!r}"
            ) from error
        if not all(p.is_finite() and p >= 0 for p in (prices.prompt, prices.completion)):
            raise ValueError(f"prices must be at least 0: {prompt!r}, {completion!r}")
        return prices

    def cost(self, prompt_tokens: int, completion_tokens: int) -> Decimal:
        """Price of one request."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1_000_000


class Budget:
    """Stops before the money is gone: every request in flight is counted at its highest price."""

    def __init__(self, limit: Decimal | None, prices: Prices, max_completion: int):
        self._limit, self._prices, self._completion = limit, prices, max_completion
        self.spent = Decimal(0)
        self._reserved = Decimal(0)

    def highest(self, request: Request) -> Decimal:
        """The most that a request can cost."""
        return self._prices.cost(most_tokens(request), self._completion)

    def reserve(self, request: Request) -> bool:
        """Sets the highest price aside; False if that could exceed the limit."""
        price = self.highest(request)
        if self._limit is not None and self.spent + self._reserved + price > self._limit:
            return False
        self._reserved += price
        return True

    def settle(self, request: Request, response: Response | None) -> None:
        """Replaces a reservation by what was used (nothing if there was no answer)."""
        self._reserved -= self.highest(request)
        if response is not None:
            self.spent += self._prices.cost(response.prompt_tokens, response.completion_tokens)
