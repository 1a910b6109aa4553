# SPDX-License-Identifier: Apache-2.0
"""From outputs of the engine to the JSON of the OpenAI interface."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np

from rwkvjax.serving.schema import ChatRequest, CompletionRequest
from rwkvjax.serving.sequence import Output, TokenInfo
from rwkvjax.serving.service import Job
from rwkvjax.tokenizers import Tokenizer


class Choice:
    """What one sequence has produced so far."""

    def __init__(self, job: Job, index: int, tokenizer: Tokenizer):
        self.index, self.finish, self.cached = index, "", 0
        self.drawn = 0
        self.text = ""
        self._job, self._tokenizer = job, tokenizer
        self._infos: list[TokenInfo] = []
        self._chat = isinstance(job.body, ChatRequest)
        self._offset = 0

    def push(self, output: Output) -> dict[str, Any] | None:
        """Takes an output in; returns what is new, as a choice of a stream."""
        text = output.text
        infos = output.tokens
        if output.prompt_tokens:
            infos = output.prompt_tokens + infos
            parts = [self._bytes(info.token) for info in output.prompt_tokens]
            text = b"".join(parts).decode("utf-8", "replace") + text
        if self._chat and not self.text:
            text = text.lstrip()  # the space after the colon of "Assistant:"
        self.text += text
        self.drawn += len(output.tokens)
        self.finish = output.finish
        self.cached = output.cached
        self._infos += infos
        if not (text or infos or output.finish):
            return None
        choice: dict[str, Any] = {"index": self.index, "finish_reason": output.finish or None}
        choice["logprobs"] = self._logprobs(infos) if self._wants_logprobs else None
        if self._chat:
            choice["delta"] = {"content": text} if text else {}
        else:
            choice["text"] = text
        return choice

    @property
    def whole(self) -> dict[str, Any]:
        """The finished choice."""
        choice: dict[str, Any] = {"index": self.index, "finish_reason": self.finish}
        self._offset = 0
        choice["logprobs"] = self._logprobs(self._infos) if self._wants_logprobs else None
        if self._chat:
            choice["message"] = {"role": "assistant", "content": self.text, "refusal": None}
        else:
            choice["text"] = self.text
        return choice

    @property
    def _wants_logprobs(self) -> bool:
        return self._job.requests[self.index].logprobs >= 0

    def _logprobs(self, infos: list[TokenInfo]) -> dict[str, Any]:
        if self._chat:
            entry = lambda token, value: {
                "token": self._word(token),
                "logprob": value,
                "bytes": list(self._bytes(token)),
            }
            content = [
                entry(i.token, i.logprob) | {"top_logprobs": [entry(*pair) for pair in i.top]}
                for i in infos
            ]
            return {"content": content, "refusal": None}
        words = [self._word(info.token) for info in infos]
        offsets = []
        for info in infos:
            offsets.append(self._offset)
            self._offset += len(self._bytes(info.token).decode("utf-8", "replace"))
        tops = [
            None if i.logprob is None else {self._word(token): value for token, value in i.top}
            for i in infos
        ]
        values = [info.logprob for info in infos]
        return {
            "tokens": words,
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _bytes(self, token: int) -> bytes:
        try:
            return self._tokenizer.decode_bytes([token])
        except ValueError:  # an id of the model that the tokenizer does not have
            return b""

    def _word(self, token: int) -> str:
        """A token's text; parts of characters as "bytes:\\xe2\\x80", so that they stay distinct."""
        data = self._bytes(token)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def usage(job: Job, choices: Iterable[Choice]) -> dict[str, Any]:
    """Token counts; the prompt counts once for all its choices."""
    choices = list(choices)
    prompt = sum(len(r.prompt) for r in job.requests[:: job.choices])
    drawn = sum(choice.drawn for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": drawn,
        "total_tokens": prompt + drawn,
        "prompt_tokens_details": {
            "cached_tokens": sum(c.cached for c in choices[:: job.choices]),
        },
    }


def head(job: Job, stream: bool) -> dict[str, Any]:
    """Fields that all answers to a job have."""
    kind = "text_completion"
    if not isinstance(job.body, CompletionRequest):
        kind = "chat.completion.chunk" if stream else "chat.completion"
    return {"id": job.id, "object": kind, "created": job.created, "model": job.model}


def embeddings(job: Job, found: list[np.ndarray]) -> dict[str, Any]:
    """Vectors of length 1, as numbers or as base64 of little-endian float32."""
    data = []
    for index, vector in enumerate(found):
        unit = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype("<f4")
        packed = job.body.encoding_format == "base64"
        value = base64.b64encode(unit.tobytes()).decode() if packed else unit.tolist()
        data.append({"object": "embedding", "index": index, "embedding": value})
    tokens = sum(len(request.prompt) for request in job.requests)
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": job.model, "usage": counts}
