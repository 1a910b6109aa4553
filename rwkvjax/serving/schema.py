# SPDX-License-Identifier: Apache-2.0
"""Requests of the OpenAI interface, checked field by field.

Unknown fields are ignored, as other servers do, since clients keep adding some; fields that would
change the answer and are not supported are refused. Beyond the official fields there are those of
`Sampling` that the interface does not have: top_k, min_p, typical_p, penalty_decay.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

MAX_STOPS = 16
MAX_PROMPTS = 64
_TOKEN = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
_TOKEN_KEY = Annotated[int, Field(ge=0, lt=1 << 31)]  # JSON keys are strings of digits
# One wrong id among a million is enough: an error for each would take seconds and a gigabyte.
_TOKENS = Annotated[list[_TOKEN], Field(min_length=1, fail_fast=True)]
_LISTS = Annotated[
    list[Annotated[list[_TOKEN], Field(fail_fast=True)]],
    Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True),
]
_COUNT = Annotated[int, Field(strict=True, ge=0, le=1 << 30)]
_TEXT = Annotated[str, Field(strict=True)]
_STOP = Annotated[str, Field(strict=True, min_length=1, max_length=200)]


_UNIT = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_TEMPERATURE = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
_PENALTY = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
_BIAS = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
_SECONDS = Annotated[float, Field(ge=0.001, le=86400, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=False, hide_input_in_errors=True)


class StreamOptions(_Strict):
    include_usage: bool = False


class JsonSchema(_Strict):
    name: str = "schema"
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """What the text has to look like; "regex" and "grammar" (Lark) are extensions."""

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    json_schema: JsonSchema | None = None
    regex: _TEXT | None = None
    grammar: _TEXT | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        needed = self.type if self.type in ("json_schema", "regex", "grammar") else None
        if needed and getattr(self, needed) is None:
            raise ValueError(f"a response_format of type {self.type!r} needs the field {needed!r}")
        return self


class Generation(_Strict):
    """Fields that completions and chat share; None takes the server's default."""

    model: Annotated[str, Field(max_length=200)]
    temperature: _TEMPERATURE | None = None
    top_p: _UNIT | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    min_p: _UNIT | None = None
    typical_p: _UNIT | None = None
    presence_penalty: _PENALTY | None = None
    frequency_penalty: _PENALTY | None = None
    penalty_decay: _UNIT | None = None
    logit_bias: dict[_TOKEN_KEY, _BIAS] | None = None
    seed: StrictInt | None = None
    stop: _STOP | Annotated[list[_STOP], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    timeout: _SECONDS | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: (
        _TEXT
        | Annotated[list[_TEXT], Field(min_length=1, max_length=MAX_PROMPTS)]
        | _TOKENS
        | _LISTS
    )
    max_tokens: _COUNT | None = None
    logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: None = None
    best_of: Literal[1] | None = None


class TextPart(_Strict):
    type: Literal["text"]
    text: _TEXT


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: _TEXT | list[TextPart]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_tokens: _COUNT | None = None
    max_completion_tokens: _COUNT | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None


class EmbeddingRequest(_Strict):
    """POST /v1/embeddings."""

    model: Annotated[str, Field(max_length=200)]
    input: (
        _TEXT
        | Annotated[list[_TEXT], Field(min_length=1, max_length=MAX_PROMPTS)]
        | _TOKENS
        | _LISTS
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
