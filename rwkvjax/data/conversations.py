# SPDX-License-Identifier: Apache-2.0
"""Conversations as supervised training data: JSONL in, windows with loss masks out.

Each line is a JSON object with the messages of one conversation, in one of these forms:

  {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
  {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
  {"prompt": "...", "response": "..."}          (also "completion", "output" or "answer")

They are written as World models expect them, and only what the assistant says is a target,
including the blank line that ends it:

  System: ...⏎⏎User: ...⏎⏎Assistant: ...⏎⏎User: ...⏎⏎Assistant: ...⏎⏎
                          ^^^^^^                          ^^^^^^

Messages are stripped and their own blank lines closed up, since a blank line ends a turn. What is
given and what is a target are encoded apart, because that is how a model meets them when it
answers.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from core import permute
from rwkvjax.data.packing import best_fit_decreasing
from rwkvjax.data.windows import checked_indices
from rwkvjax.tokenizers import Tokenizer

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "User"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot"), "Assistant"),
    "system": "System",
}
_ANSWERS = ("response", "completion", "output", "answer")
TOO_LONG = ("error", "cut", "skip")


class ConversationError(ValueError):
    """A line that is not a conversation; the message names file and line."""


@dataclasses.dataclass(frozen=True)
class Conversation:
    """One tokenised conversation.

    Attributes:
      tokens: int32 [k].
      target: bool [k]: whether the token is predicted in training.
    """

    tokens: np.ndarray
    target: np.ndarray


def clean(text: str) -> str:
    """A message as it stands in a prompt: stripped, "\\n" line ends, no blank lines."""
    return re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n")).strip()


def render(messages: Sequence[tuple[str, str]]) -> list[tuple[str, bool]]:
    """(role, text) pairs -> pieces (text, whether it is a target), see the module."""
    pieces: list[tuple[str, bool]] = []
    given = ""
    for role, text in messages:
        if role == "Assistant":
            pieces += [(f"{given}Assistant:", False), (f" {clean(text)}\n\n", True)]
            given = ""
        else:
            given += f"{role}: {clean(text)}\n\n"
    return pieces + ([(given, False)] if given else [])


def encode(messages: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> Conversation:
    """Tokens and target mask of a conversation."""
    parts = [(tokenizer.encode(text), target) for text, target in render(messages)]
    tokens = np.concatenate([np.asarray(ids, np.int32) for ids, _ in parts])
    target = np.concatenate([np.full(len(ids), target, bool) for ids, target in parts])
    return Conversation(tokens, target)


def read_conversations(
    paths: Sequence[str | os.PathLike[str]], tokenizer: Tokenizer
) -> Iterator[tuple[str, Conversation]]:
    """("FILE:LINE", conversation) of every line of JSONL files (may end in .gz).

    Raises:
      FileNotFoundError: a path that is not there.
      ConversationError: a line that is not a conversation.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"no such file of conversations: {path}")
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = f"{path}:{number}"
                    yield place, encode(_messages(place, line), tokenizer)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # type: ignore


def _messages(place: str, line: bytes) -> list[tuple[str, str]]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"{place}: not JSON: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise ConversationError(f"{place}: expected a JSON object, got {type(value).__name__}")
    if "messages" in value or "conversations" in value:
        turns = _turns(place, value)
    else:
        answer = next((value[k] for k in _ANSWERS if k in value), None)
        turns = [("User", value.get("prompt")), ("Assistant", answer)]
    for role, text in turns:
        if not isinstance(text, str):
            raise ConversationError(f"{place}: the {role} message is no text but {text!r:.80}")
        if not clean(text):
            raise ConversationError(f"{place}: an empty {role} message")
    if "Assistant" not in [role for role, _ in turns]:
        raise ConversationError(f"{place}: no message of the assistant, so nothing to learn")
    return turns


def _turns(place: str, value: dict[str, Any]) -> list[tuple[str, Any]]:
    turns = value.get("messages", value.get("conversations"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ConversationError(f"{place}: expected a list of messages, got {turns!r:.80}")
    result = []
    for turn in turns:
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role not in _ROLES:
            raise ConversationError(f"{place}: role must be one of {[*_ROLES]}, got {role!r:.40}")
        result.append((_ROLES[role], text))
    return result


class ConversationWindows:
    """Windows of T + 1 tokens as `rwkvjax.data.windows` describes them, from whole conversations.

    Attributes:
      num_tokens: tokens of all conversations that are kept.
      num_targets: targets of one epoch.
      cut, skipped: conversations longer than a window that were cut or left out.
    """

    def __init__(
        self,
        conversations: Iterator[tuple[str, Conversation]],
        context: int,
        *,
        pack: bool = True,
        too_long: str = "error",
        seed: int | None = 0,
        vocab_size: int | None = None,
    ):
        """Reads all conversations into memory.

        Args:
          conversations: see `read_conversations`.
          context: T.
          pack: several conversations to a window, with a reset before each; else one, without
            resets, as a tuned initial state needs it.
          too_long: conversations of more than T + 1 tokens: "error", "cut" or "skip".
          seed: of the order, which is another in every epoch; None keeps the given order.
          vocab_size: check token ids against it.

        Raises:
          ValueError: a conversation that is too long, or none at all.
        """
        if too_long not in TOO_LONG:
            raise ValueError(f"too_long must be one of {TOO_LONG}, got {too_long!r}")
        self._context, self._seed, self._pack = context, seed, pack
        self.cut = self.skipped = 0
        kept = []
        for place, one in conversations:
            if vocab_size is not None and one.tokens.max() >= vocab_size:
                raise ValueError(f"{place}: token {one.tokens.max()} in a vocabulary {vocab_size}")
            fitted = self._fit(place, one, too_long)
            if fitted is not None:
                kept.append(fitted)
        if not kept:
            raise ValueError("the data holds no conversation that fits a window")
        self._conversations = kept
        self.num_tokens = sum(len(c.tokens) for c in kept)
        self.num_targets = sum(int(c.target[1:].sum()) for c in kept)
        lengths = np.array([len(c.tokens) for c in kept])
        windows, count = (
            best_fit_decreasing(lengths, context + 1) if pack else (np.arange(len(kept)), len(kept))
        )
        self._windows: list[list[int]] = [[] for _ in range(count)]
        for index, window in enumerate(windows.tolist()):
            self._windows[window].append(index)

    def _fit(self, place: str, one: Conversation, too_long: str) -> Conversation | None:
        room = self._context + 1
        if len(one.tokens) <= room:
            return one
        if too_long == "error":
            raise ValueError(
                f"{place}: {len(one.tokens)} tokens do not fit a context of {self._context}; raise"
                " data.context, or set data.too_long to cut or skip"
            )
        if too_long == "skip" or not one.target[1:room].any():
            self.skipped += 1
            return None
        self.cut += 1
        return Conversation(one.tokens[:room], one.target[:room])

    def __len__(self) -> int:
        """Windows in one epoch."""
        return len(self._windows)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples of the global indices [n]; see `rwkvjax.data.windows`."""
        rows = permute.order(checked_indices(indices), len(self), self._seed)
        size = self._context + 1
        batch = {
            "tokens": np.zeros((len(rows), size), np.int32),
            "reset": np.zeros((len(rows), size), bool),
            "loss_mask": np.zeros((len(rows), size - 1), np.float32),
        }
        for row, window in enumerate(rows.tolist()):
            place = 0
            for index in self._windows[window]:
                one = self._conversations[index]
                end = place + len(one.tokens)
                batch["tokens"][row, place:end] = one.tokens
                batch["loss_mask"][row, place : end - 1] = one.target[1:]
                batch["reset"][row, place] = self._pack
                place = end
            batch["reset"][row, place:][:1] = self._pack
        return batch
