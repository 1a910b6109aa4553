# SPDX-License-Identifier: Apache-2.0
"""Asks every request once: bounded workers, durable answers, polite retries, a budget."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from nlp.evaluation import limits
from nlp.evaluation.backends.base import Backend, Refused, Retryable
from nlp.evaluation.cache import Cache
from nlp.evaluation.records import Request, Response

_POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class Settings:
    """How hard to ask.

    Attributes:
      concurrency: requests under way at once.
      requests_per_minute, tokens_per_minute: limits, 0 for none.
      retries: further attempts after a failure that may pass.
      timeout: seconds for one attempt, 0 for none.
      backoff, backoff_cap: seconds of the first and the longest wait between attempts.
      longest_wait: a Retry-After above this ends the run, to be resumed later.
      failures_in_a_row: so many items without an answer end the run.
      prices: for a million tokens. budget: money for this run, None for no limit.
    """

    concurrency: int = 8
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    retries: int = 6
    timeout: float = 60.0
    backoff: float = 1.0
    backoff_cap: float = 60.0
    longest_wait: float = 600.0
    failures_in_a_row: int = 20
    prices: limits.Prices = limits.Prices()
    budget: Decimal | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.retries < 0 or self.failures_in_a_row < 1:
            raise ValueError(
                "expected concurrency >= 1, retries >= 0, failures_in_a_row >= 1, got"
                f" {self.concurrency=} {self.retries=} {self.failures_in_a_row=}"
            )


@dataclasses.dataclass
class RunStats:
    """What happened; times and costs of this run, not of stored answers."""

    seen: int = 0
    cached: int = 0
    answered: int = 0
    failed: int = 0
    attempts: int = 0
    retries: int = 0
    most_in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    cost: Decimal = Decimal(0)
    seconds: float = 0.0
    stopped: str = ""  # why the run ended early, "" if it did not
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = dataclasses.asdict(self)
        return values | {"cost": str(self.cost), "reasons": dict(self.reasons.most_common(20))}


class Runner:
    """One run over a stream of requests. Nothing is kept in memory but what is under way."""

    def __init__(
        self,
        backend: Backend,
        cache: Cache,
        settings: Settings,
        progress: Callable[[RunStats], None] = lambda stats: None,
    ):
        self.stats = RunStats()
        self._backend, self._cache, self._settings = backend, cache, settings
        self._progress = progress
        self._limiter = limits.RateLimiter(settings.requests_per_minute, settings.tokens_per_minute)
        self._budget = limits.Budget(settings.budget, settings.prices, backend.max_completion)
        self._backoff = limits.Backoff(settings.backoff, settings.backoff_cap)
        self._rng = random.Random(0)
        self._busy: collections.deque[tuple[str, Request]] = collections.deque()
        self._in_flight = self._failed_in_a_row = 0
        self._stopping = asyncio.Event()

    def stop(self, reason: str) -> None:
        """Ends the run after the requests under way."""
        self.stats.stopped = self.stats.stopped or reason
        self._stopping.set()

    async def run(self, requests: Iterable[Request]) -> RunStats:
        """Asks whatever has no stored answer yet.

        Raises:
          Refused: the endpoint will not serve this run at all; stored answers stay.
        """
        began = time.monotonic()
        source = iter(requests)
        count = self._settings.concurrency
        workers = [asyncio.create_task(self._work(source)) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self.stats.cost = self._budget.spent
            self.stats.seconds = time.monotonic() - began
            self._progress(self.stats)
        return self.stats

    async def _work(self, source: Iterator[Request]) -> None:
        while not self._stopping.is_set():
            batch = await self._next(source)
            if not batch:
                return
            self._in_flight += len(batch)
            self.stats.most_in_flight = max(self.stats.most_in_flight, self._in_flight)
            try:
                await self._ask(batch)
            finally:
                self._in_flight -= len(batch)
                for key, _ in batch:  # what was stored has no claim any more
                    self._cache.release(key)
            self._progress(self.stats)

    async def _next(self, source: Iterator[Request]) -> list[tuple[str, Request]]:
        """Up to a batch of claimed requests; empty when none are left or the run is stopping."""
        batch: list[tuple[str, Request]] = []
        while not await self._fill(batch, source) and self._busy and not self._stopping.is_set():
            await asyncio.sleep(_POLL_S)  # others are asking what is left; see whether they answer
        return batch

    async def _fill(self, batch: list[tuple[str, Request]], source: Iterator[Request]) -> bool:
        """Adds claimed requests to `batch` until it is full; False if it stays empty."""
        for number, (key, request) in enumerate(self._candidates(source)):
            if self._stopping.is_set():
                break
            if number % 64 == 63:
                await asyncio.sleep(0)  # a fully cached run must not starve answers under way
            state = self._cache.claim(key)
            if state == "answered":
                self.stats.cached += 1
            elif state == "busy":
                self._busy.append((key, request))
            elif await self._afford(request):
                batch.append((key, request))
            else:
                self._cache.release(key)
                break
            if len(batch) == self._backend.batch_size:
                break
        return bool(batch)

    def _candidates(self, source: Iterator[Request]) -> Iterator[tuple[str, Request]]:
        """First what others were asking, if that has piled up; then new requests; then the rest."""
        if len(self._busy) > 4 * self._settings.concurrency:
            yield from self._waiting()
        for request in source:
            self.stats.seen += 1
            yield request.key(self._backend.identity), request
            if len(self._busy) > 4 * self._settings.concurrency:
                return
        yield from self._waiting()

    def _waiting(self) -> Iterator[tuple[str, Request]]:
        for _ in range(len(self._busy)):
            if self._busy:
                yield self._busy.popleft()

    async def _afford(self, request: Request) -> bool:
        """Sets money aside; waits for requests under way to be settled before giving up."""
        while not self._budget.reserve(request):
            if self._stopping.is_set():
                return False
            if not self._in_flight:
                self.stop("budget")
                return False
            await asyncio.sleep(0.01)
        return True

    async def _ask(self, batch: list[tuple[str, Request]]) -> None:
        requests = [request for _, request in batch]
        settled: list[Response | None] = [None] * len(batch)
        try:
            responses = await self._attempts(requests)
            for place, ((key, _), response) in enumerate(zip(batch, responses, strict=True)):
                settled[place] = response
                self._store(key, response)
        finally:
            for request, final in zip(requests, settled, strict=True):
                self._budget.settle(request, final)

    async def _attempts(self, requests: list[Request]) -> list[Response]:
        """Asks until there is an answer or the attempts are used up."""
        tokens = sum(_expected_tokens(r, self._backend.max_completion) for r in requests)
        reason = ""
        for attempt in range(self._settings.retries + 1):
            if not await self._limiter.wait(tokens, self._stopping):
                reason = reason or "the run was stopped before it was asked"
                break
            self.stats.attempts += len(requests)
            try:
                async with asyncio.timeout(self._settings.timeout or None):
                    responses = await self._backend.answer(requests)
            except TimeoutError:
                reason, wait = f"no answer within {self._settings.timeout:g} s", None
            except Retryable as error:
                reason, wait = str(error), error.retry_after
            except Refused as error:
                self.stop(f"refused: {error}")
                raise
            else:
                used = sum(r.prompt_tokens + r.completion_tokens for r in responses)
                self._limiter.correct(tokens, used)
                return responses
            self.stats.reasons[_short(reason)] += 1
            if wait is not None and wait > self._settings.longest_wait:
                self.stop(f"the endpoint asks to wait {wait:.0f} s")
            if attempt == self._settings.retries or self._stopping.is_set():
                break
            self.stats.retries += 1
            if wait is not None:
                self._limiter.pause(wait)
            else:
                await limits.sleep(self._backoff.seconds(attempt, self._rng), self._stopping)
                if self._stopping.is_set():
                    break
        return [Response(status="error", error=reason)] * len(requests)

    def _store(self, key: str, response: Response) -> None:
        if response.status == "ok":
            self._cache.put(key, response)
            self.stats.answered += 1
            self.stats.prompt_tokens += response.prompt_tokens
            self.stats.completion_tokens += response.completion_tokens
            self.stats.estimated += response.estimated
            self._failed_in_a_row = 0
            return
        self._cache.put_failure(key, response)
        self.stats.failed += 1
        if response.status == "error":
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._settings.failures_in_a_row:
                self.stop(f"{self._failed_in_a_row} failures in a row: {_short(response.error)}")


def _short(reason: str) -> str:
    return reason[:120]


def _expected_tokens(request: Request, completion: int) -> int:
    return sum(limits.estimate_tokens(text) for _, text in request.messages) + completion


@dataclasses.dataclass
class Estimate:
    """What a run would ask and cost. Tokens are estimates; `highest` cannot be exceeded."""

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal = Decimal(0)
    highest: Decimal = Decimal(0)


def estimate(
    requests: Iterable[Request],
    identity: Mapping[str, Any],
    cache: Cache,
    prices: limits.Prices,
    max_completion: int,
) -> Estimate:
    """Counts what a run would send, without sending anything."""
    total = Estimate()
    new: set[str] = set()
    for request in requests:
        key = request.key(identity)
        if key in new or cache.has(key):
            total.cached += 1
            continue
        new.add(key)
        prompt = sum(limits.estimate_tokens(text) for _, text in request.messages)
        completion = min(max_completion, max(map(limits.estimate_tokens, request.codes or ("",))))
        total.requests += 1
        total.prompt_tokens += prompt
        total.completion_tokens += completion
        total.cost += prices.cost(prompt, completion)
        total.highest += prices.cost(limits.most_tokens(request), max_completion)
    return total
