# SPDX-License-Identifier: Apache-2.0
"""Continuous batching over states of constant size.

    engine = Engine(params, cfg, tokenizer, Limits(slots=16))
    number = engine.submit(Request(prompt, max_tokens=20))
    while engine.busy:
        for number, output in engine.step():
            ...

`step` admits waiting requests into free slots, feeds one piece of a prompt, and draws one token for
every running sequence. Requests join and leave between steps; the compiled shapes never change.
Pure in the sense that it has no threads, no sockets and no clock of its own: the same calls give
the same outputs.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax import model, sampling
from rwkvjax.config import Config
from rwkvjax.sampling.constrained import GrammarError
from rwkvjax.sampling.generation import advance, segments
from rwkvjax.serving import slots as device
from rwkvjax.serving.prefix_cache import PrefixCache
from rwkvjax.serving.sequence import Output, Request, Sequence, TokenInfo
from rwkvjax.tokenizers import Tokenizer

Params = dict


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the engine may use.

    Attributes:
      slots: sequences that are decoded together.
      prefill_chunk: longest piece of a prompt fed at once (a power of two); between two pieces,
        running sequences get a token each.
      cache_bytes: budget of the prefix cache; 0 switches it off.
    """

    slots: int = 16
    prefill_chunk: int = 256
    cache_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        if self.slots < 1 or self.cache_bytes < 0:
            raise ValueError(f"expected slots >= 1 and cache_bytes >= 0, got {self}")
        if self.prefill_chunk < 1 or self.prefill_chunk & (self.prefill_chunk - 1):
            raise ValueError(f"prefill_chunk must be a power of two, got {self.prefill_chunk}")


@dataclasses.dataclass
class Stats:
    """Counts since the start."""

    submitted: int = 0
    finished: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    drawn_tokens: int = 0
    cache_hits: int = 0
    cache_evictions: int = 0


class Engine:
    """See the module. Not thread-safe; `worker.Worker` runs one in a thread."""

    def __init__(
        self,
        params: Params,
        cfg: Config,
        tokenizer: Tokenizer,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.cfg, self.tokenizer, self.limits = cfg, tokenizer, limits or Limits()
        self.cache = PrefixCache(self.limits.cache_bytes)
        self.stats = Stats()
        self._params, self._clock = params, clock
        self._start = model.init_state(cfg, 1)
        self._entry_bytes = device.nbytes(self._start) + 4 * cfg.vocab_size
        self._weights = jnp.asarray(sampling.token_weights(tokenizer, cfg.vocab_size))
        self._slots = device.empty(cfg, self.limits.slots)
        self.state_bytes = device.nbytes(self._slots)  # constant
        self._free = list(range(self.limits.slots))[::-1]
        self._waiting: deque[Sequence] = deque()
        self._filling: deque[Sequence] = deque()  # have a slot, their prompt is being fed
        self._running: dict[int, Sequence] = {}  # by slot
        self._by_number: dict[int, Sequence] = {}

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._by_number)

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests with a slot."""
        return len(self._by_number) - len(self._waiting)

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def submit(self, request: Request) -> int:
        """Queues a request and returns its number.

        Raises:
          ValueError: an empty prompt, ids or settings that do not fit the model.
        """
        sampling.generation.check_prompts(self.cfg, [request.prompt])
        if request.max_tokens < (0 if request.echo or request.embed else 1):
            raise ValueError(f"max_tokens must be at least 1, got {request.max_tokens}")
        self.stats.submitted += 1
        sequence = Sequence(self.stats.submitted, request, self.tokenizer, self._clock())
        self._waiting.append(sequence)
        self._by_number[sequence.number] = sequence
        return sequence.number

    def cancel(self, number: int) -> None:
        """Ends a request at the next step; nothing happens if it has ended already."""
        if number in self._by_number:
            self._by_number[number].cancelled = True

    def warm_up(self, everything: bool = False) -> None:
        """Compiles every shape, so that no request waits for it.

        `everything` includes embeddings and the log-probabilities of prompts: three times the work.
        """
        budget, self.cache.budget_bytes = self.cache.budget_bytes, 0
        prompt = np.zeros(2 * self.limits.prefill_chunk - 1, np.int32)
        self.submit(Request(prompt, max_tokens=2, logprobs=0))
        if everything:
            self.submit(Request(prompt, max_tokens=0, embed=True))
            self.submit(Request(prompt, max_tokens=0, echo=True))
        while self.busy:
            self.step()
        jax.block_until_ready(device.extract(self._slots, 0))
        nobody = np.zeros(self.limits.slots, bool)
        mask = np.full((self.limits.slots, -(-self.cfg.vocab_size // 32)), -1, np.int32)
        logits, state, rows = self._slots
        _, rows, _ = device.choose(logits, rows, self._weights, nobody, False, mask)
        self._slots = device.Slots(logits, state, rows)
        self.cache.budget_bytes = budget
        self.stats = Stats()

    def step(self) -> list[tuple[int, Output]]:
        """Advances everything by one token or one piece of a prompt.

        Returns:
          (request number, output) of those that produced something or ended.
        """
        self.stats.steps += 1
        outputs = self._sweep()
        self._admit()
        outputs += self._fill()
        outputs += self._decode()
        return outputs

    def _sweep(self) -> list[tuple[int, Output]]:
        """Ends what was cancelled or has run out of time."""
        now, outputs = self._clock(), []
        for sequence in list(self._by_number.values()):
            reason = "cancelled" if sequence.cancelled else ""
            reason = reason or ("timeout" if now >= sequence.request.deadline else "")
            if reason:
                outputs.append(self._finish(sequence, Output(sequence.rest(), finish=reason)))
        return outputs

    def _finish(self, sequence: Sequence, output: Output) -> tuple[int, Output]:
        """Frees what a sequence holds."""
        del self._by_number[sequence.number]
        if sequence.slot >= 0:
            self._running.pop(sequence.slot, None)
            self._free.append(sequence.slot)
            sequence.slot = -1
        if output.finish in ("timeout", "cancelled", "error"):
            self._waiting = deque(s for s in self._waiting if s is not sequence)
            self._filling = deque(s for s in self._filling if s is not sequence)
        output.cached = sequence.cached
        self.stats.finished += 1
        return sequence.number, output

    def _admit(self) -> None:
        while self._waiting and self._free:
            sequence = self._waiting.popleft()
            sequence.slot = self._free.pop()
            self._begin(sequence)
            self._filling.append(sequence)

    def _begin(self, sequence: Sequence) -> None:
        """Finds the longest cached prefix and plans the pieces of the rest."""
        request = sequence.request
        variant = request.variant
        sequence.params = variant.params if variant.params is not None else self._params
        sequence.state = variant.state if variant.state is not None else self._start
        sequence.logits = jnp.zeros((1, self.cfg.vocab_size), jnp.float32)
        length = len(request.prompt)
        self.stats.prompt_tokens += length
        if not (request.embed or request.echo):
            entry = self.cache.find(variant.serial, request.prompt)
            if entry is not None:
                sequence.state, sequence.logits = entry.state, entry.logits
                sequence.fed = sequence.cached = len(entry.tokens)
                self.stats.cached_tokens += sequence.cached
                self.stats.cache_hits += 1
        cuts = [cut for cut in sorted({*request.breakpoints, length}) if cut > sequence.fed]
        start = sequence.fed
        for cut in cuts:
            sequence.pieces += segments(min(cut, length) - start, self.limits.prefill_chunk)
            start = min(cut, length)

    def _fill(self) -> list[tuple[int, Output]]:
        """Feeds pieces of prompts, at most `prefill_chunk` tokens together."""
        outputs = []
        budget = self.limits.prefill_chunk
        while self._filling and budget > 0:
            sequence = self._filling[0]
            while sequence.pieces and budget > 0:
                size = sequence.pieces.pop(0)
                budget -= size
                self._feed_piece(sequence, size)
            if sequence.pieces:
                self._filling.rotate(-1)  # the others come before its next piece
                break
            self._filling.popleft()
            outputs += self._filled(sequence)
        return outputs

    def _feed_piece(self, sequence: Sequence, size: int) -> None:
        prompt, start = sequence.request.prompt, sequence.fed
        tokens = np.asarray(prompt[start : start + size], np.int32)[None]
        sequence.fed += size
        params, cfg, state = sequence.params, self.cfg, sequence.state
        if sequence.request.embed:
            total = jnp.zeros(cfg.dim) if sequence.total is None else sequence.total
            sequence.total, sequence.state = device.pool(params, cfg, tokens, total, state)
            return
        if sequence.request.echo:
            following = np.resize(prompt[start + 1 : start + 1 + size], size)[None]
            found, sequence.logits, sequence.state = device.score(
                params, cfg, tokens, following.astype(np.int32), state
            )
            count = min(size, len(prompt) - 1 - start)
            sequence.prompt_tokens += self._infos(found, following[0], range(count), sequence)
            return
        one = np.ones(1, bool)
        sequence.logits, sequence.state = advance(params, cfg, tokens, state, sequence.logits, one)
        if sequence.fed in sequence.request.breakpoints or not sequence.pieces:
            self._remember(sequence, prompt[: sequence.fed], sequence.state, sequence.logits)

    def _remember(self, sequence: Sequence, tokens: np.ndarray, state: Any, logits: Any) -> None:
        if self.limits.cache_bytes:
            variant = sequence.request.variant.serial
            gone = self.cache.add(variant, tokens, state, logits, self._entry_bytes)
            self.stats.cache_evictions += gone

    def _filled(self, sequence: Sequence) -> list[tuple[int, Output]]:
        """The prompt has been fed: the sequence moves into its slot, or is done already."""
        request = sequence.request
        if request.embed:
            mean = np.asarray(sequence.total) / len(request.prompt)
            return [self._finish(sequence, Output(finish="stop", embedding=mean))]
        outputs = []
        if request.echo:
            first = TokenInfo(int(request.prompt[0]), None)
            output = Output(prompt_tokens=[first, *sequence.prompt_tokens])
            if not request.max_tokens:
                output.finish = "length"
                return [self._finish(sequence, output)]
            outputs.append((sequence.number, output))
        row = sampling.row(request.how, self.cfg.vocab_size, request.seed, request.stream)
        self._slots = device.insert(
            self._slots, sequence.slot, sequence.logits, sequence.state, row
        )
        sequence.state = sequence.logits = None
        self._running[sequence.slot] = sequence
        return outputs

    def _decode(self) -> list[tuple[int, Output]]:
        """Draws a token for every running sequence and feeds it."""
        if not self._running:
            return []
        active = np.zeros(self.limits.slots, bool)
        active[list(self._running)] = True
        mask, outputs = self._masks()
        for number, _ in outputs:
            active[[slot for slot, s in self._running.items() if s.number == number]] = False
        report = any(s.request.logprobs >= 0 for s in self._running.values())
        logits, state, rows = self._slots
        tokens, rows, found = device.choose(logits, rows, self._weights, active, report, mask)
        for params, group in self._groups(active):
            logits, state = device.feed(params, self.cfg, tokens, logits, state, group)
        self._slots = device.Slots(logits, state, rows)
        drawn = np.asarray(tokens)
        found = jax.tree.map(np.asarray, found) if report else found
        for slot in np.flatnonzero(active):
            outputs.append(self._accept(self._running[int(slot)], drawn, found))
        self.stats.drawn_tokens += int(active.sum())
        return outputs

    def _groups(self, active: np.ndarray) -> list[tuple[Params, np.ndarray]]:
        """Running slots by the weights that they use: (params, which slots [B] bool)."""
        groups: dict[int, tuple[Params, np.ndarray]] = {}
        for slot in np.flatnonzero(active):
            params = self._running[int(slot)].params
            groups.setdefault(id(params), (params, np.zeros_like(active)))[1][slot] = True
        return list(groups.values())

    def _masks(self) -> tuple[np.ndarray | None, list[tuple[int, Output]]]:
        """Allowed tokens [B, words] if any is constrained, and the ends of failed grammars."""
        constrained = [(i, s) for i, s in self._running.items() if s.request.matcher is not None]
        if not constrained:
            return None, []
        words = -(-self.cfg.vocab_size // 32)
        mask, failed = np.full((self.limits.slots, words), -1, np.int32), []
        for slot, sequence in constrained:
            assert sequence.request.matcher is not None
            try:
                mask[slot] = sequence.request.matcher.mask()
            except GrammarError as error:
                failed.append(self._finish(sequence, Output(finish="error", error=str(error))))
        return mask, failed

    def _accept(
        self, sequence: Sequence, drawn: np.ndarray, found: device.Logprobs
    ) -> tuple[int, Output]:
        slot, asked = sequence.slot, sequence.request.logprobs
        info = TokenInfo(int(drawn[slot]), None)
        if asked >= 0:
            (info,) = self._infos(found, drawn, [slot], sequence)
        try:
            output = sequence.accept(info)
        except GrammarError as error:
            output = Output(finish="error", error=str(error))
        if not output.finish:
            return sequence.number, output
        ended = self.tokenizer.end_of_document == sequence.drawn[-1]  # nothing goes on from there
        if self.limits.cache_bytes and output.finish != "error" and not ended:
            logits, state = device.extract(self._slots, slot)
            self._remember(sequence, sequence.fed_tokens, state, logits)
        return self._finish(sequence, output)

    @staticmethod
    def _infos(
        found: device.Logprobs, tokens: np.ndarray, places: Any, sequence: Sequence
    ) -> list[TokenInfo]:
        count = max(0, sequence.request.logprobs)
        chosen, ids, top = (np.asarray(x) for x in found)
        make = lambda i: tuple(
            (int(a), float(b)) for a, b in zip(ids[i, :count], top[i, :count], strict=True)
        )
        return [TokenInfo(int(tokens[i]), float(chosen[i]), make(i)) for i in places]
