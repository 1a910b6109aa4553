# SPDX-License-Identifier: Apache-2.0
"""Any OpenAI-compatible endpoint, through the official client (extra `nlp`)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nlp.evaluation import limits, redaction
from nlp.evaluation.backends.base import Refused, Retryable
from nlp.evaluation.records import Request, Response

_TRANSIENT = frozenset({408, 409, 425, 429})
_FATAL = frozenset({401, 402, 403, 404})
_TOO_LONG = re.compile(
    r"context[_ ]length|maximum context|context window|too many tokens"
    r"|(?:prompt|input)[^.]{0,20} too long",
    re.I,
)
_FILTERED = re.compile(r"content[_ ]filter|content[_ ]policy|requires moderation|flagged", re.I)
_NO_CREDIT = re.compile(r"insufficient_quota|billing", re.I)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """An endpoint and how it is asked.

    Attributes:
      model, base_url: of the endpoint; the address holds no credentials.
      endpoint: "chat" or "completions".
      token_parameter: how the endpoint calls the limit of an answer.
      stream: receive answers in pieces.
      seed: sent if not negative.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    endpoint: str = "chat"
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    token_parameter: str = "max_tokens"
    stop: tuple[str, ...] = ()
    seed: int = -1
    stream: bool = False

    def __post_init__(self) -> None:
        redaction.check_url(self.base_url)
        if not self.model:
            raise ValueError("the model's name is missing")
        if self.endpoint not in ("chat", "completions"):
            raise ValueError(f"endpoint must be 'chat' or 'completions', got {self.endpoint!r}")
        if self.token_parameter not in ("max_tokens", "max_completion_tokens"):
            raise ValueError(
                "token_parameter must be 'max_tokens' or 'max_completion_tokens', got"
                f" {self.token_parameter!r}"
            )
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


class OpenAIBackend:
    """Sends one request for each item, each a conversation of its own, without hidden retries."""

    batch_size = 1

    def __init__(self, endpoint: Endpoint, key: str = "", timeout: float = 60.0):
        """Takes the endpoint, its key ("" if it needs none), and the client's time limit in s."""
        try:
            import openai
        except ImportError as error:
            raise ImportError("endpoints need the client: pip install 'rwkvjax[nlp]'") from error
        self._openai = openai
        self._endpoint = endpoint
        self._redact = redaction.Redactor([key] if key else [])
        self.max_completion = endpoint.max_tokens
        self.identity: Mapping[str, Any] = {"kind": "openai", **dataclasses.asdict(endpoint)}
        self._client = openai.AsyncOpenAI(
            api_key=key or "none", base_url=endpoint.base_url, max_retries=0, timeout=timeout
        )

    async def close(self) -> None:
        await self._client.close()

    async def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [await self._one(request) for request in requests]

    async def _one(self, request: Request) -> Response:
        try:
            response = await self._send(request)
        except (Retryable, Refused):
            raise
        except self._openai.APIStatusError as error:
            return self._status_error(error)
        except Exception as error:  # cut connections, broken JSON, protocol errors of any layer
            raise Retryable(self._redact(f"{type(error).__name__}: {error}"[:300])) from None
        return dataclasses.replace(
            response, text=self._redact.exact(response.text), error=self._redact(response.error)
        )

    async def _send(self, request: Request) -> Response:
        asked = self._endpoint
        body: dict[str, Any] = {
            "model": asked.model,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            asked.token_parameter: asked.max_tokens,
        }
        if asked.stop:
            body["stop"] = list(asked.stop)
        if asked.seed >= 0:
            body["seed"] = asked.seed + request.sample
        if asked.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if asked.endpoint == "chat":
            messages: Any = [{"role": role, "content": text} for role, text in request.messages]
            reply = await self._client.chat.completions.create(messages=messages, **body)
        else:
            prompt = "\n\n".join(text for _, text in request.messages)
            if asked.token_parameter != "max_tokens":
                body["max_tokens"] = body.pop(asked.token_parameter)
            reply = await self._client.completions.create(prompt=prompt, **body)
        if asked.stream:
            return self._response(request, *await _collect(reply))
        return self._read(request, reply)

    def _read(self, request: Request, reply: Any) -> Response:
        """A whole reply; endpoints also report errors with status 200."""
        error = getattr(reply, "error", None)
        if error:
            return self._body_error(error)
        choices = getattr(reply, "choices", None)
        if not choices:
            raise Retryable("the reply has no choices")
        choice = choices[0]
        message = getattr(choice, "message", None)
        text = message.content if message is not None else getattr(choice, "text", "")
        return self._response(request, text, choice.finish_reason, getattr(reply, "usage", None))

    def _response(self, request: Request, text: Any, finish: Any, usage: Any) -> Response:
        if text is not None and not isinstance(text, str):
            raise Retryable("the reply's text is no string")
        text = text or ""
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        known = all(isinstance(c, int) and c >= 0 for c in counts)
        if not known:
            counts = [sum(limits.estimate_tokens(t) for _, t in request.messages)]
            counts.append(limits.estimate_tokens(text))
        status = "filtered" if finish == "content_filter" else "ok"
        return Response(
            text if status == "ok" else "",
            status,
            str(finish or ""),
            int(counts[0] or 0),
            int(counts[1] or 0),
            estimated=not known,
        )

    def _body_error(self, error: Any) -> Response:
        if not isinstance(error, dict):
            error = {"message": str(error)}
        said = " ".join(str(error.get(k) or "") for k in ("code", "type", "message"))
        return self._judge(said)

    def _status_error(self, error: Any) -> Response:
        """Decides by status: ask again, give up on the item, or end the run."""
        said = f"{error.status_code} {error.code or ''} {error.message}"
        if error.status_code in _TRANSIENT or error.status_code >= 500:
            if error.status_code == 429 and _NO_CREDIT.search(said):
                raise Refused(self._redact(said[:300])) from None
            headers = error.response.headers
            wait = limits.retry_after(headers.get("retry-after"))
            raise Retryable(self._redact(said[:300]), wait) from None
        if error.status_code == 403 and _FILTERED.search(said):  # this text only, not the key
            return self._judge(said, final=True)
        if error.status_code in _FATAL:
            raise Refused(self._redact(said[:300])) from None
        return self._judge(said, final=True)

    def _judge(self, said: str, final: bool = False) -> Response:
        message = self._redact(said[:300])
        if _TOO_LONG.search(said):
            return Response(status="too_long", error=message)
        if _FILTERED.search(said):
            return Response(status="filtered", error=message)
        if not final:
            raise Retryable(message)
        return Response(status="error", error=message)


async def _collect(stream: Any) -> tuple[str, Any, Any]:
    """Joins the pieces of a streamed reply: (text, finish reason, usage)."""
    parts: list[str] = []
    finish = usage = None
    async for chunk in stream:
        usage = getattr(chunk, "usage", None) or usage
        for choice in (chunk.choices or [])[:1]:
            delta = getattr(choice, "delta", None)
            piece = delta.content if delta is not None else getattr(choice, "text", "")
            parts.append(piece or "")
            finish = choice.finish_reason or finish
    if finish is None:
        raise Retryable("the stream ended early")
    return "".join(parts), finish, usage
