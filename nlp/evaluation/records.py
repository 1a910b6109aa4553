# SPDX-License-Identifier: Apache-2.0
"""What passes between tasks, backends and scores: items, requests and responses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

Messages = tuple[tuple[str, str], ...]  # (role, text) pairs; one item is one conversation

RESPONSE_STATUSES = ("ok", "too_long", "filtered", "error")


@dataclasses.dataclass(frozen=True)
class Item:
    """One question with its gold answer.

    Attributes:
      id: unique in its task.
      fields: the texts that the prompt shows, by field name.
      gold: for each unit (one, or one for each sentence) the gold labels; for spans and numbers
        the accepted answers.
      annotator: whose judgement this is; "" when aggregated.
      text_id: equal for judgements of the same text.
      group: a topic or language, for tables.
      choices: labels of this item only, with what they mean, for tasks without a fixed label set.
      scores: gold strength of every label in [0, 1], where known.
    """

    id: str
    fields: Mapping[str, str]
    gold: tuple[tuple[str, ...], ...]
    annotator: str = ""
    text_id: str = ""
    group: str = ""
    choices: tuple[tuple[str, str], ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Gold labels of an item with one unit."""
        return self.gold[0]


@dataclasses.dataclass(frozen=True)
class Request:
    """One question for a backend.

    Attributes:
      task, item, annotator: whose question this is.
      messages: the whole conversation.
      sample: number of the drawn answer when several are drawn for one question.
      labels: spellings for backends that rank labels.
      codes: for each of `labels` the answer text that stands for it.
      wanted: how many labels to name when ranking.
      prefix: number of leading characters of the first message that all items of a task share.
    """

    task: str
    item: str
    messages: Messages
    annotator: str = ""
    sample: int = 0
    labels: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    wanted: int = 1
    prefix: int = 0

    def key(self, identity: Mapping[str, Any]) -> str:
        """Content address: SHA-256 of the backend's identity, the messages and the sample.

        A backend whose answers depend on the item, not on the text, says so with
        `identity["per_item"]`; one that ranks labels with `identity["ranks"]`.
        """
        content: dict[str, Any] = {
            "backend": dict(identity),
            "messages": [list(m) for m in self.messages],
            "sample": self.sample,
        }
        if identity.get("per_item"):
            content["item"] = [self.task, self.item, self.annotator]
        if identity.get("ranks"):
            content["labels"] = [list(self.labels), list(self.codes), self.wanted]
        return digest(content)

    @property
    def characters(self) -> int:
        """Length of all messages."""
        return sum(len(text) for _, text in self.messages)


@dataclasses.dataclass(frozen=True)
class Response:
    """What a backend said.

    Attributes:
      text: the answer; "" unless status is "ok".
      status: "ok", or why there is no answer: "too_long", "filtered", "error".
      finish: the endpoint's finish reason.
      prompt_tokens, completion_tokens: as reported, or estimated.
      estimated: the endpoint reported no token counts.
      error: what went wrong, without secrets.
      scores: log-probability of every label, for backends that rank.
    """

    text: str = ""
    status: str = "ok"
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    error: str = ""
    scores: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.status not in RESPONSE_STATUSES:
            raise ValueError(f"status must be one of {RESPONSE_STATUSES}, got {self.status!r}")

    def to_json(self) -> str:
        return canonical(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Response:
        values = json.loads(text)
        values["scores"] = tuple((str(k), float(v)) for k, v in values.get("scores", ()))
        return cls(**values)


def canonical(value: Any) -> str:
    """JSON with one spelling for equal values: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """SHA-256 of `canonical(value)`, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def check_unique(items: Sequence[Item], where: str) -> None:
    """Raises ValueError if two items cannot be told apart."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"{where}: two items have the id {item.id!r}")
        seen.add(item.id)
