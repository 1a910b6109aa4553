# SPDX-License-Identifier: Apache-2.0
"""A request and what the engine knows about it on the host: text, stop strings, limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np

from rwkvjax.sampling.constrained import Matcher
from rwkvjax.sampling.settings import Sampling
from rwkvjax.serving.adapters import BASE, Variant
from rwkvjax.tokenizers import StreamDecoder, Tokenizer


@dataclasses.dataclass(frozen=True)
class Request:
    """One continuation (or one embedding) that is asked for.

    Attributes:
      prompt: [n] int32 token ids, n >= 1.
      max_tokens: most tokens to draw; 0 only with `echo`.
      how: settings; `how.stop` are the tokens that end the text.
      seed, stream: of the random numbers, see `sampling.row`.
      stop: strings that end the text and do not belong to it.
      logprobs: number of most likely tokens to report at every position, or -1 for none.
      echo: report the log-probabilities of the prompt, too.
      adapter: name of the variant; `variant`: what it changes.
      matcher: constraint on the output, used by this request only.
      deadline: time (of the engine's clock) at which the request ends, finished or not.
      breakpoints: lengths of prompt prefixes that other requests are likely to share.
      embed: no continuation; the mean of the final activations over the prompt instead.
    """

    prompt: np.ndarray
    max_tokens: int = 16
    how: Sampling = Sampling()
    seed: int = 0
    stream: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int = -1
    echo: bool = False
    adapter: str = ""
    variant: Variant = BASE
    matcher: Matcher | None = None
    deadline: float = float("inf")
    breakpoints: tuple[int, ...] = ()
    embed: bool = False


@dataclasses.dataclass(frozen=True)
class TokenInfo:
    """A token with its log-probability and the most likely ones at its place."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass
class Output:
    """What a request produced in one step.

    Attributes:
      text: new text that is certain not to be part of a stop string.
      tokens: the tokens drawn; of the prompt in `prompt_tokens`, once, with `echo`.
      finish: "" while it goes on; "stop", "length", "timeout", "cancelled" or "error".
      error: what went wrong, with finish "error".
      embedding: [D], of an embedding.
      cached: tokens of the prompt that came from the prefix cache, known at the end.
    """

    text: str = ""
    tokens: list[TokenInfo] = dataclasses.field(default_factory=list)
    prompt_tokens: list[TokenInfo] = dataclasses.field(default_factory=list)
    finish: str = ""
    error: str = ""
    embedding: np.ndarray | None = None
    cached: int = 0


class StopText:
    """Holds back text that may turn out to be the beginning of a stop string."""

    def __init__(self, stops: SequenceOf[str]):
        if any(not stop for stop in stops):
            raise ValueError("stop strings must not be empty")
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that is certain, whether a stop string was found)."""
        held = self._held + text
        places = [place for stop in self._stops if (place := held.find(stop)) >= 0]
        if places:
            self._held = ""
            return held[: min(places)], True
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def flush(self) -> str:
        """The text that was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of `stop` that `text` ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class Sequence:
    """Progress of one request; belongs to the engine."""

    def __init__(self, number: int, request: Request, tokenizer: Tokenizer, arrived: float):
        self.number, self.request, self.arrived = number, request, arrived
        self.slot = -1
        self.params: Any = None
        self.state: Any = None
        self.logits: Any = None
        self.total: Any = None  # running sum of an embedding
        self.pieces: list[int] = []  # sizes of the parts of the prompt still to be fed
        self.fed = 0
        self.cached = 0
        self.drawn: list[int] = []
        self.prompt_tokens: list[TokenInfo] = []
        self.cancelled = False
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopText(request.stop)
        self._ends = frozenset(request.how.stop)

    def accept(self, info: TokenInfo) -> Output:
        """Takes a drawn token in."""
        request = self.request
        self.drawn.append(info.token)
        if info.token in self._ends:
            return Output(self.rest(), [], finish="stop")
        text, found = self._stops.push(self._decoder.push(info.token))
        if found:
            return Output(text, [info], finish="stop")
        done = False
        if request.matcher is not None:
            request.matcher.consume(info.token)
            done = request.matcher.finished
        if done or len(self.drawn) >= request.max_tokens:
            return Output(text + self.rest(), [info], finish="stop" if done else "length")
        return Output(text, [info])

    def rest(self) -> str:
        """Text held back at the end."""
        text, found = self._stops.push(self._decoder.flush())
        return text if found else text + self._stops.flush()

    @property
    def fed_tokens(self) -> np.ndarray:
        """[n] int32: everything that the slot's state has seen."""
        return np.concatenate([self.request.prompt, np.array(self.drawn, np.int32)])
