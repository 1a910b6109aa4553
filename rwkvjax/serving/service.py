# SPDX-License-Identifier: Apache-2.0
"""From the bodies of the OpenAI interface to requests of the engine."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from rwkvjax import prompts
from rwkvjax.sampling.constrained import GrammarError, Grammars, Matcher
from rwkvjax.sampling.settings import Sampling
from rwkvjax.serving.adapters import BASE, AdapterStore, Variant
from rwkvjax.serving.errors import ApiError
from rwkvjax.serving.schema import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Generation,
    ResponseFormat,
)
from rwkvjax.serving.sequence import Request
from rwkvjax.tokenizers import Tokenizer, decodable_ids


@dataclasses.dataclass(frozen=True)
class Options:
    """What a server allows and assumes.

    Attributes:
      model: name under which the base model is offered.
      max_prompt_tokens, max_tokens: largest prompt and continuation.
      max_choices: sequences of one HTTP request (prompts times `n`).
      max_logprobs: log-probabilities that may be asked for in one HTTP request, over all tokens.
      max_body_bytes, body_seconds: size of a body, and time for it to arrive.
      timeout: seconds that a request may take; a smaller one may be asked for.
      temperature, top_p, presence, frequency, decay: of requests that do not say.
      chat_stop: strings that end an answer in a chat.
      chat_tokens: `max_tokens` of chats that do not say.
    """

    model: str = "rwkv"
    max_prompt_tokens: int = 32768
    max_tokens: int = 4096
    max_choices: int = 64
    max_logprobs: int = 1 << 20
    max_body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    timeout: float = 600.0
    temperature: float = 1.0
    top_p: float = 0.85
    presence: float = 0.0
    frequency: float = 0.0
    decay: float = 0.996
    chat_stop: tuple[str, ...] = (prompts.END,)
    chat_tokens: int = 512


@dataclasses.dataclass
class Job:
    """One HTTP request, ready for the engine: `choices` sequences for each of the prompts."""

    body: Any
    requests: list[Request]
    choices: int
    model: str
    id: str = ""
    created: int = 0

    @property
    def stream(self) -> bool:
        return bool(getattr(self.body, "stream", False))


class Service:
    """Checks bodies against the model and the limits. Stateless but for loaded grammars."""

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, options: Options, adapters: AdapterStore
    ):
        self.tokenizer, self.options, self.adapters = tokenizer, options, adapters
        self._vocab_size = vocab_size
        self._decodable = min(decodable_ids(tokenizer), vocab_size)
        self._grammars: Grammars | None = None
        self._lock = asyncio.Lock()

    def models(self) -> list[str]:
        """Names that requests may ask for."""
        base = self.options.model
        return [base, *(f"{base}@{name}" for name in self.adapters.names())]

    async def prepare(self, body: BaseModel) -> Job:
        """Raises ApiError for whatever the body asks and cannot have."""
        if isinstance(body, ChatRequest):
            job = await self._chat(body)
            job.id = f"chatcmpl-{secrets.token_hex(12)}"
        elif isinstance(body, CompletionRequest):
            job = await self._completion(body)
            job.id = f"cmpl-{secrets.token_hex(12)}"
        else:
            assert isinstance(body, EmbeddingRequest)
            job = await self._embedding(body)
        job.created = int(time.time())
        return job

    async def _completion(self, body: CompletionRequest) -> Job:
        prompts_ids = self._prompts(body.prompt)
        count = 16 if body.max_tokens is None else body.max_tokens
        if not count and not body.echo:
            raise ApiError(400, "max_tokens 0 needs echo", "invalid_value", "max_tokens")
        logprobs = -1 if body.logprobs is None else body.logprobs
        start = await self._common(body, count, logprobs, body.stops, len(prompts_ids))
        start = dataclasses.replace(start, echo=bool(body.echo))
        return self._job(body, start, prompts_ids)

    async def _chat(self, body: ChatRequest) -> Job:
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs", "invalid_value", "top_logprobs")
        messages = [(message.role, message.text) for message in body.messages]
        ids = self._encode(prompts.conversation(messages), "messages")
        asked = (body.max_completion_tokens, body.max_tokens, self.options.chat_tokens)
        count = next(number for number in asked if number is not None)
        if asked[:2] == (None, None):
            count = min(count, self.options.max_tokens)
        if count < 1:
            raise ApiError(400, "max_tokens must be at least 1", "invalid_value", "max_tokens")
        logprobs = (body.top_logprobs or 0) if body.logprobs else -1
        stops = (*self.options.chat_stop, *body.stops)
        if body.response_format is not None and body.response_format.type != "text":
            stops = body.stops  # JSON may hold empty lines; the grammar says where it ends
        start = await self._common(body, count, logprobs, stops, 1)
        shared = prompts.shared_lengths(self.tokenizer, messages, ids)
        return self._job(body, dataclasses.replace(start, breakpoints=tuple(shared)), [ids])

    async def _embedding(self, body: EmbeddingRequest) -> Job:
        variant, name = await self._variant(body.model)
        deadline = time.monotonic() + self.options.timeout
        start = Request(
            np.zeros(1, np.int32), 0, adapter=name, variant=variant, embed=True, deadline=deadline
        )
        return self._job(body, start, self._prompts(body.input))

    def _job(self, body: Any, start: Request, prompts_ids: list[np.ndarray]) -> Job:
        choices = getattr(body, "n", None) or 1
        if choices * len(prompts_ids) > self.options.max_choices:
            most = self.options.max_choices
            raise ApiError(400, f"at most {most} sequences in a request", "invalid_value", "n")
        self._check_logprobs(start, prompts_ids, choices)
        copies = lambda m: m.copy() if m is not None else None
        requests = [
            dataclasses.replace(start, prompt=ids, stream=i, matcher=copies(start.matcher))
            for ids in prompts_ids
            for i in range(choices)
        ]
        return Job(body, requests, choices, body.model)

    def _check_logprobs(self, start: Request, prompts_ids: list[np.ndarray], choices: int) -> None:
        """They are kept until the answer is sent, some hundred bytes each."""
        if start.logprobs < 0 and not start.echo:
            return
        fed = sum(map(len, prompts_ids)) if start.echo else 0
        asked = choices * (fed + len(prompts_ids) * start.max_tokens) * (1 + max(0, start.logprobs))
        if asked > self.options.max_logprobs:
            message = f"{asked} log-probabilities, at most {self.options.max_logprobs} in a request"
            raise ApiError(400, message, "invalid_value", "logprobs")

    async def _common(
        self, body: Generation, count: int, logprobs: int, stops: tuple[str, ...], prompts_: int
    ) -> Request:
        """The request without its prompt."""
        options = self.options
        if count > options.max_tokens:
            raise ApiError(
                400, f"max_tokens is at most {options.max_tokens}", "invalid_value", "max_tokens"
            )
        variant, name = await self._variant(body.model)
        seed = secrets.randbits(63) if body.seed is None else body.seed & (1 << 64) - 1
        return Request(
            np.zeros(1, np.int32),
            count,
            self._sampling(body),
            seed,
            stop=stops,
            logprobs=logprobs,
            adapter=name,
            variant=variant,
            matcher=await self._constraint(body.response_format),
            deadline=time.monotonic() + min(options.timeout, body.timeout or options.timeout),
        )

    def _sampling(self, body: Generation) -> Sampling:
        options, end = self.options, self.tokenizer.end_of_document
        choose = lambda value, default: default if value is None else value
        bias = tuple((body.logit_bias or {}).items())
        if any(token >= self._vocab_size for token, _ in bias):
            message = f"token ids are below {self._vocab_size}"
            raise ApiError(400, message, "invalid_value", "logit_bias")
        return Sampling(
            temperature=choose(body.temperature, options.temperature),
            top_p=choose(body.top_p, options.top_p),
            top_k=body.top_k or 0,
            vocab=self._decodable,
            min_p=body.min_p or 0.0,
            typical_p=choose(body.typical_p, 1.0),
            presence=choose(body.presence_penalty, options.presence),
            frequency=choose(body.frequency_penalty, options.frequency),
            decay=choose(body.penalty_decay, options.decay),
            bias=bias,
            stop=() if end is None else (end,),
        )

    async def _variant(self, model: str) -> tuple[Variant, str]:
        base, at, name = model.partition("@")
        if base == self.options.model and not at:
            return BASE, ""
        try:
            if base != self.options.model:
                raise KeyError(model)
            return await asyncio.to_thread(self.adapters.get, name), name
        except KeyError:
            message = f"the model {model!r} does not exist; see /v1/models"
            raise ApiError(404, message, "model_not_found", "model") from None
        except (ValueError, OSError, NotImplementedError) as error:
            message = f"the adapter {name!r} cannot be used: {error}"[:400]
            raise ApiError(400, message, "invalid_adapter", "model") from error

    async def _constraint(self, wanted: ResponseFormat | None) -> Matcher | None:
        if wanted is None or wanted.type == "text":
            return None
        try:
            async with self._lock:
                if self._grammars is None:
                    make = lambda: Grammars(self.tokenizer, self._vocab_size)
                    self._grammars = await asyncio.to_thread(make)
            return await asyncio.to_thread(_compile, self._grammars, wanted)
        except (GrammarError, ImportError) as error:
            raise ApiError(400, str(error)[:500], "invalid_value", "response_format") from error

    def _prompts(self, given: Any) -> list[np.ndarray]:
        """Strings or token ids, one or several, as arrays [n] int32."""
        many = isinstance(given, list) and not isinstance(given[0], int)
        return [
            self._encode(one, "prompt") if isinstance(one, str) else self._ids(one)
            for one in (given if many else [given])
        ]

    def _encode(self, text: str, param: str) -> np.ndarray:
        try:
            ids = np.asarray(self.tokenizer.encode(text), np.int32)
        except ValueError as error:
            raise ApiError(400, str(error)[:300], "invalid_value", param) from error
        if not ids.size:  # the end of a document is a legitimate place to start from
            ids = self._ids([self.tokenizer.end_of_document or 0])
        return self._checked(ids)

    def _ids(self, ids: Sequence[int]) -> np.ndarray:
        if not ids or max(ids) >= self._vocab_size:
            message = f"a prompt needs token ids from 0 to {self._vocab_size - 1}, at least one"
            raise ApiError(400, message, "invalid_value", "prompt")
        return self._checked(np.asarray(ids, np.int32))

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        most = self.options.max_prompt_tokens
        if len(ids) > most:
            message = f"the prompt is too long: {len(ids)} tokens, the maximum context is {most}"
            raise ApiError(400, message, "context_length_exceeded", "prompt")
        return ids


def _compile(grammars: Grammars, wanted: ResponseFormat) -> Matcher:
    if wanted.type == "json_schema":
        assert wanted.json_schema is not None
        return grammars.json_schema(wanted.json_schema.schema_)
    if wanted.type == "regex":
        return grammars.regex(wanted.regex or "")
    if wanted.type == "grammar":
        return grammars.lark(wanted.grammar or "")
    return grammars.json_schema({"type": "object"})
