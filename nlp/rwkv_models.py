# SPDX-License-Identifier: Apache-2.0
"""RWKV models of ours as a backend of `nlp.evaluation`; the one file that imports `rwkvjax`.

What other files of this package need of `rwkvjax` they take from here (`__all__`).

"rank" compares labels by the log-probability of their spelling after the prompt, so every answer is
a label. "generate" continues the prompt greedily. The state after the part of a prompt that all
items share is computed once and copied, which a recurrent model can do exactly.

Dimensions: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rwkvjax
from nlp.evaluation.records import Request, Response
from rwkvjax import Config, checkpoints, losses, model
from rwkvjax.data import ArrayTokens, PackedDocuments
from rwkvjax.embedding import Pooling, embed
from rwkvjax.finetune import lowrank
from rwkvjax.model_flags import tokenizer_for
from rwkvjax.task import LanguageModelTask
from rwkvjax.tokenizers.byte import ByteTokenizer

__all__ = [
    "ArrayTokens",
    "ByteTokenizer",
    "Config",
    "LanguageModelTask",
    "Options",
    "PackedDocuments",
    "Pooling",
    "RWKVBackend",
    "checkpoints",
    "embed",
    "load",
    "losses",
    "lowrank",
    "model",
    "tokenizer_for",
]

_CHUNK = 256  # longest piece of a prompt in one call
_BURST = 8  # tokens drawn between checks for a stop
_PREFIXES = 8  # states of shared beginnings that are kept
State = Any


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model answers.

    Attributes:
      mode: "rank" or "generate".
      normalised: ranking divides a label's log-probability by its number of tokens.
      template: around a prompt; {prompt} is replaced.
      before: text between prompt and label when ranking.
      max_tokens, stop: of a generated answer.
      temperature: 0 takes the most likely token; above, tokens are drawn. A draw depends on the
        request (its sample too) and on the `seed`, not on what else is in a batch.
      batch_size: prompts at once.
      share_prefix: compute the common beginning of prompts once.
    """

    mode: str = "rank"
    normalised: bool = False
    template: str = "User: {prompt}\n\nAssistant:"
    before: str = " "
    max_tokens: int = 64
    stop: tuple[str, ...] = ("\n\n",)
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 8
    share_prefix: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("rank", "generate"):
            raise ValueError(f"mode must be 'rank' or 'generate', got {self.mode!r}")
        if self.template.count("{prompt}") != 1:
            raise ValueError("template must contain {prompt} once")
        if self.batch_size < 1 or self.max_tokens < 1:
            raise ValueError(f"expected at least 1: {self.batch_size=} {self.max_tokens=}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")


@functools.partial(jax.jit, static_argnums=1)
def _advance(
    params: dict,
    cfg: rwkvjax.Config,
    tokens: jax.Array,
    state: State,
    last: jax.Array,
    go: jax.Array,
) -> tuple[jax.Array, State]:
    """Feeds tokens [B, T] to the rows where `go` [B]; other rows keep state and `last` [B, V]."""
    logits, new = rwkvjax.apply(params, cfg, tokens, state)
    keep = lambda a, b: jnp.where(go.reshape(1, -1, *[1] * (a.ndim - 2)), a, b)
    return jnp.where(go[:, None], logits[:, -1], last), jax.tree.map(keep, new, state)


@functools.partial(jax.jit, static_argnums=1)
def _continuation(
    params: dict,
    cfg: rwkvjax.Config,
    tokens: jax.Array,
    mask: jax.Array,
    state: State,
    last: jax.Array,
) -> jax.Array:
    """Log-probability [B] of tokens [B, T] (where mask [B, T]) after a state with logits `last`."""
    first = jax.nn.log_softmax(last.astype(jnp.float32))
    after = []
    if tokens.shape[1] > 1:
        logits, _ = rwkvjax.apply(params, cfg, tokens[:, :-1], state)
        after = [jax.nn.log_softmax(logits.astype(jnp.float32))]
    log_p = jnp.concatenate([first[:, None], *after], axis=1)  # [B, T, V]
    picked = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    return jnp.where(mask, picked, 0.0).sum(-1)


@functools.partial(jax.jit, static_argnums=(1, 6))
def _draw(
    params: dict,
    cfg: rwkvjax.Config,
    last: jax.Array,
    state: State,
    keys: jax.Array,
    start: int,
    temperature: float,
) -> tuple[jax.Array, jax.Array, State]:
    """`_BURST` tokens after place `start`: (tokens [B, _BURST], logits, state); keys [B]."""

    def body(carry: tuple[jax.Array, State], place: jax.Array) -> Any:
        last, state = carry
        if temperature:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
            token = jax.vmap(jax.random.categorical)(own, last / temperature).astype(jnp.int32)
        else:
            token = jnp.argmax(last, axis=-1).astype(jnp.int32)
        return rwkvjax.step(params, cfg, token, state), token

    places = start + jnp.arange(_BURST)
    (last, state), tokens = jax.lax.scan(body, (last, state), places)
    return tokens.T, last, state


class RWKVBackend:
    """Answers with a model in this process; see `nlp.evaluation.backends.base.Backend`."""

    def __init__(
        self, cfg: rwkvjax.Config, params: dict, tokenizer: Any, options: Options | None = None
    ):
        """Takes a loaded model; see `load` for files."""
        self._cfg, self._params, self._tokenizer = cfg, params, tokenizer
        self._options = options or Options()
        self._prefixes: collections.OrderedDict[tuple[int, ...], tuple[jax.Array, State]]
        self._prefixes = collections.OrderedDict()
        self.batch_size = self._options.batch_size
        self.max_completion = self._options.max_tokens
        behaviour = dataclasses.asdict(self._options)
        for name in ("batch_size", "share_prefix"):  # change the speed only
            del behaviour[name]
        if not self._options.temperature:  # nothing is drawn: the answers are those of old
            del behaviour["temperature"], behaviour["seed"]
        self.identity: Mapping[str, Any] = {
            "kind": "rwkv",
            "weights": _digest(params),
            "ranks": self._options.mode == "rank",
            **behaviour,
        }

    async def close(self) -> None:
        self._prefixes.clear()

    async def answer(self, requests: Sequence[Request]) -> list[Response]:
        return await asyncio.to_thread(self.answer_now, requests)

    def answer_now(self, requests: Sequence[Request]) -> list[Response]:
        """As `answer`, without an event loop."""
        prompts = [self._prompt(request) for request in requests]
        last, state = self._read(requests, prompts)
        if self._options.mode == "rank":
            return self._rank(requests, prompts, last, state)
        return self._generate(requests, prompts, last, state)

    # --- prompts -------------------------------------------------------------------------------

    def _prompt(self, request: Request) -> list[int]:
        text = "\n\n".join(content for _, content in request.messages)
        tokens = self._encode(self._options.template.replace("{prompt}", text))
        if not tokens:
            raise ValueError(f"{request.task}/{request.item}: the prompt is empty")
        return tokens

    def _encode(self, text: str) -> list[int]:
        return [int(t) for t in self._tokenizer.encode(text)]

    def _shared(self, request: Request, tokens: Sequence[int]) -> tuple[int, ...]:
        """Leading tokens that belong to the beginning all items of the task share."""
        if not self._options.share_prefix or not request.prefix:
            return ()
        head = self._options.template.split("{prompt}")[0] + request.messages[0][1]
        length = len(self._options.template.split("{prompt}")[0]) + request.prefix
        prefix = self._encode(head[:length])
        same = 0
        # The last token of the beginning may merge with what follows: compare, do not assume.
        while same < min(len(prefix), len(tokens) - 1) and prefix[same] == tokens[same]:
            same += 1
        return tuple(tokens[:same])

    def _prefix_state(self, tokens: tuple[int, ...]) -> tuple[jax.Array, State]:
        """(logits [1, V], state of one row) after a shared beginning; the newest few are kept."""
        if tokens in self._prefixes:
            self._prefixes.move_to_end(tokens)
            return self._prefixes[tokens]
        last = jnp.zeros((1, self._cfg.vocab_size), jnp.float32)
        state = rwkvjax.init_state(self._cfg, 1)
        if tokens:
            last, state = self._feed([list(tokens)], last, state)
        self._prefixes[tokens] = (last, state)
        while len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)
        return last, state

    def _read(
        self, requests: Sequence[Request], prompts: Sequence[list[int]]
    ) -> tuple[jax.Array, State]:
        """State and logits [B, V] after every prompt; rows beyond the requests repeat the last."""
        rows = [min(i, len(prompts) - 1) for i in range(self.batch_size)]
        shared = [self._shared(request, p) for request, p in zip(requests, prompts, strict=True)]
        starts = [self._prefix_state(s) for s in shared]
        last = jnp.concatenate([starts[i][0] for i in rows], axis=0)
        state = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves, axis=1), *[starts[i][1] for i in rows]
        )
        return self._feed([prompts[i][len(shared[i]) :] for i in rows], last, state)

    def _feed(
        self, rows: Sequence[list[int]], last: jax.Array, state: State
    ) -> tuple[jax.Array, State]:
        """Feeds rows of different lengths exactly, in pieces whose lengths are powers of two.

        No row ever sees padding: in each call the rows that have no such piece keep their state. So
        any mixture of lengths needs the same few compiled programs.
        """
        done = [0] * len(rows)
        size = _CHUNK
        while size:
            go = [len(row) - at >= size for row, at in zip(rows, done, strict=True)]
            if not any(go):
                size //= 2
                continue
            tokens = np.zeros((len(rows), size), np.int32)
            for i, row in enumerate(rows):
                if go[i]:
                    tokens[i] = row[done[i] : done[i] + size]
                    done[i] += size
            last, state = _advance(self._params, self._cfg, tokens, state, last, np.array(go))
        return last, state

    # --- answers -------------------------------------------------------------------------------

    def _rank(
        self,
        requests: Sequence[Request],
        prompts: Sequence[list[int]],
        last: jax.Array,
        state: State,
    ) -> list[Response]:
        spellings = [self._spellings(request) for request in requests]
        most = max(len(own) for own in spellings)
        if not most:
            raise ValueError(f"task {requests[0].task!r} has no labels to rank; use generate")
        longest = max(len(tokens) for own in spellings for tokens in own)
        length = 1 << (longest - 1).bit_length()  # few shapes, so few compilations
        scores = np.full((len(requests), most), -np.inf)
        for place in range(most):
            tokens = np.zeros((self.batch_size, length), np.int32)
            mask = np.zeros((self.batch_size, length), bool)
            for i, own in enumerate(spellings):
                spelling = own[min(place, len(own) - 1)]
                tokens[i, : len(spelling)], mask[i, : len(spelling)] = spelling, True
            got = np.asarray(
                _continuation(self._params, self._cfg, tokens, mask, state, last), np.float64
            )
            for i, own in enumerate(spellings):
                if place < len(own):
                    scale = len(own[place]) if self._options.normalised else 1
                    scores[i, place] = got[i] / scale
        return [
            _ranked(request, scores[i, : len(spellings[i])], len(prompts[i]))
            for i, request in enumerate(requests)
        ]

    def _spellings(self, request: Request) -> list[list[int]]:
        """Tokens of every label as the prompt asks to write it, without list brackets."""
        texts = [code.strip("[]").strip('"') for code in request.codes]
        return [self._encode(self._options.before + text) for text in texts]

    def _generate(
        self,
        requests: Sequence[Request],
        prompts: Sequence[list[int]],
        last: jax.Array,
        state: State,
    ) -> list[Response]:
        keys = self._keys(requests)
        drawn: list[list[int]] = [[] for _ in prompts]
        texts = [""] * len(prompts)
        ended = [False] * len(prompts)
        for start in range(0, self.max_completion, _BURST):
            tokens, last, state = _draw(
                self._params, self._cfg, last, state, keys, start, self._options.temperature
            )
            for i, row in enumerate(np.asarray(tokens)[: len(prompts)]):
                if not ended[i]:
                    drawn[i] = (drawn[i] + [int(t) for t in row])[: self.max_completion]
                    texts[i], ended[i] = self._text(drawn[i])
            if all(ended):
                break
        return [
            Response(text.strip(), finish="stop" if end else "length", prompt_tokens=len(prompt),
                     completion_tokens=len(tokens))
            for text, end, prompt, tokens in zip(texts, ended, prompts, drawn, strict=True)
        ]  # fmt: skip

    def _keys(self, requests: Sequence[Request]) -> jax.Array:
        """A key for each row of a batch, made from what is asked."""
        numbers = [int(request.key({"draws": 1})[:8], 16) for request in requests]
        numbers += [0] * (self.batch_size - len(numbers))
        key = jax.random.key(self._options.seed)
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array(numbers, jnp.uint32))

    def _text(self, tokens: list[int]) -> tuple[str, bool]:
        """Text up to the end-of-text token 0 or a stop, and whether one was met."""
        ended = 0 in tokens
        text = self._tokenizer.decode(tokens[: tokens.index(0)] if ended else tokens)
        for stop in self._options.stop:
            if stop in text.lstrip():
                return text.lstrip().split(stop)[0], True
        return text, ended


def _ranked(request: Request, scores: np.ndarray, prompt_tokens: int) -> Response:
    best = np.argsort(-scores, kind="stable")[: request.wanted]
    codes = [request.codes[i] for i in best]
    text = codes[0] if len(codes) == 1 else "[" + ", ".join(c.strip("[]") for c in codes) + "]"
    named = tuple(
        (label, round(float(s), 6)) for label, s in zip(request.labels, scores, strict=True)
    )
    return Response(text, finish="ranked", prompt_tokens=prompt_tokens, scores=named)


def _digest(params: dict) -> str:
    """SHA-256 of all parameters, so that answers of other weights are never mistaken for these."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(np.asarray(leaf))
        total.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def load(path: str, tokenizer: str = "", options: Options | None = None) -> RWKVBackend:
    """Loads a checkpoint or weights file.

    Args:
      path: see `rwkvjax.load`.
      tokenizer: "byte", "world" or a vocabulary file; by default the run's own.
      options: how to answer.

    Raises:
      FileNotFoundError, ValueError: no such model, or one that does not fit.
    """
    cfg, params, meta = checkpoints.load_with_meta(path)
    return RWKVBackend(cfg, params, tokenizer_for(cfg, meta, tokenizer), options)
