# SPDX-License-Identifier: Apache-2.0
"""Generates texts through any backend of `nlp.evaluation`; every answer is stored by its content.

Answers lie in the evaluation's cache, keyed by backend, conversation and sample: a run that was
killed asks only for what is missing, in whatever order, and gives the same texts. Failures are kept
apart from answers and never shift labels: every result carries the id of its source.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from nlp.augmentation.conversations import (
    KINDS,
    Generated,
    Source,
    first_turn,
    one_line,
    second_turn,
)
from nlp.evaluation.backends.base import Backend
from nlp.evaluation.cache import Cache
from nlp.evaluation.records import Messages, Request
from nlp.evaluation.runner import Runner, RunStats, Settings


@dataclasses.dataclass(frozen=True)
class Generation:
    """What is generated.

    Attributes:
      kinds: of `conversations.KINDS`.
      samples: texts of each kind for each source; backends that draw give different ones.
      what: what the label is called in the prompts, for instance "sentiment".
    """

    kinds: tuple[str, ...] = KINDS
    samples: int = 1
    what: str = "sentiment"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise ValueError(f"unknown kinds {unknown}; known: {KINDS}")
        if not self.kinds or self.samples < 1:
            raise ValueError(f"expected one or more kinds and {self.samples=} >= 1")


def generate(
    sources: Sequence[Source],
    backend: Backend,
    cache: Cache,
    how: Generation | None = None,
    settings: Settings | None = None,
    progress: Callable[[RunStats], None] = lambda stats: None,
) -> list[Generated]:
    """Asks for what is not stored yet and returns all texts, by kind, sample and source.

    The backend is closed at the end: its connections belong to the loop that this function runs.

    Args:
      sources: with different ids.
      backend: see `nlp.evaluation.backends`.
      cache: where answers are kept.
      how: see `Generation`. settings: see `runner.Settings`.
      progress: receives the numbers of the run.

    Raises:
      ValueError: two sources with one id.
      Refused: the endpoint will not serve this run; stored answers stay.
    """
    how, settings = how or Generation(), settings or Settings()
    if len({source.id for source in sources}) != len(sources):
        raise ValueError("two sources have the same id")
    asyncio.run(_ask(sources, backend, cache, how, settings, progress))
    return list(_collect(sources, backend, cache, how))


async def _ask(
    sources: Sequence[Source],
    backend: Backend,
    cache: Cache,
    how: Generation,
    settings: Settings,
    progress: Callable[[RunStats], None],
) -> None:
    firsts = [k for k in how.kinds if k != "para_conv"]
    if "para_conv" in how.kinds and "para" not in firsts:
        firsts.append("para")
    try:
        await _ask_turns(sources, backend, cache, how, settings, progress, firsts)
    finally:
        await backend.close()


async def _ask_turns(
    sources: Sequence[Source],
    backend: Backend,
    cache: Cache,
    how: Generation,
    settings: Settings,
    progress: Callable[[RunStats], None],
    firsts: Sequence[str],
) -> None:
    # The second turns follow the first ones' answers, so they come in a run of their own.
    await Runner(backend, cache, settings, progress).run(
        _request(source, kind, sample, first_turn(source, kind, how.what))
        for kind in firsts
        for sample in range(how.samples)
        for source in sources
    )
    if "para_conv" in how.kinds:
        await Runner(backend, cache, settings, progress).run(
            request
            for sample in range(how.samples)
            for source in sources
            if (request := _second_request(source, sample, backend, cache, how)) is not None
        )


def _request(source: Source, kind: str, sample: int, messages: Messages) -> Request:
    return Request(f"augment-{kind}", source.id, messages, sample=sample)


def _second_request(
    source: Source, sample: int, backend: Backend, cache: Cache, how: Generation
) -> Request | None:
    """The second turn of a conversation; None if the first one has no answer."""
    first = _request(source, "para", sample, first_turn(source, "para", how.what))
    answer = cache.get(first.key(backend.identity))
    if answer is None or not answer.text.strip():
        return None
    messages = second_turn(source, answer.text, how.what)
    return _request(source, "para_conv", sample, messages)


def _collect(
    sources: Sequence[Source], backend: Backend, cache: Cache, how: Generation
) -> Iterator[Generated]:
    for kind in how.kinds:
        for sample in range(how.samples):
            for source in sources:
                request: Request | None
                if kind == "para_conv":
                    request = _second_request(source, sample, backend, cache, how)
                else:
                    request = _request(source, kind, sample, first_turn(source, kind, how.what))
                yield _result(source, kind, request, backend, cache)


def _result(
    source: Source, kind: str, request: Request | None, backend: Backend, cache: Cache
) -> Generated:
    if request is None:
        return Generated(source.id, kind, source.label, status="no_first_turn")
    key = request.key(backend.identity)
    response = cache.get(key) or cache.failure(key)
    if response is None:
        return Generated(source.id, kind, source.label, status="not_asked")
    text = one_line(response.text) if response.status == "ok" else ""
    return Generated(source.id, kind, source.label, text, response.status)
