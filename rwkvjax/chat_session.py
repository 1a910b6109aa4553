# SPDX-License-Identifier: Apache-2.0
"""A conversation as a tree: every retry, edit or branch adds a message beside another.

Nothing is ever overwritten. The states after prompts and answers live in the engine's prefix cache,
so going back to any message costs what has changed, not the conversation.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from core import files
from rwkvjax import prompts

FORMAT = "rwkvjax-chat-1"
_MAX_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Node:
    """A message that follows the message `parent` (-1: none does)."""

    role: str
    text: str
    parent: int


class Session:
    """A tree of messages and the place in it where the conversation goes on.

    Attributes:
      system: text of the system message, "" for none.
      nodes: all messages; an answer's parent is a question and the other way round.
      head: the last message of the conversation, -1 before the first.
    """

    def __init__(self, system: str = ""):
        self.system = prompts.clean(system)
        self.nodes: list[Node] = []
        self.head = -1

    def path(self, head: int | None = None) -> list[int]:
        """Numbers of the messages from the first to `head`."""
        at = self.head if head is None else head
        found = []
        while at >= 0:
            found.append(at)
            at = self.nodes[at].parent
        return found[::-1]

    def messages(self) -> list[prompts.Message]:
        """The conversation up to the head, with the system message."""
        start = [("system", self.system)] if self.system else []
        return start + [(self.nodes[i].role, self.nodes[i].text) for i in self.path()]

    def prompt(self) -> str:
        """The text that asks for the next answer; ValueError unless the head is a question."""
        if self.head < 0 or self.nodes[self.head].role != "user":
            raise ValueError("there is no question to answer")
        return prompts.conversation(self.messages())

    def ask(self, text: str) -> int:
        """Adds a question after the head and returns its number."""
        if self.head >= 0 and self.nodes[self.head].role == "user":
            raise ValueError("the last question has no answer yet: /retry")
        text = prompts.clean(text)
        if not text:
            raise ValueError("the message is empty")
        return self._add("user", text, self.head)

    def answer(self, text: str) -> int:
        """Adds an answer to the question at the head and returns its number."""
        if self.head < 0 or self.nodes[self.head].role != "user":
            raise ValueError("there is no question to answer")
        return self._add("assistant", prompts.clean(text), self.head)

    def retry(self) -> None:
        """Goes back to the last question, for another answer to it."""
        if self.head < 0:
            raise ValueError("nothing was asked yet")
        if self.nodes[self.head].role == "assistant":
            self.head = self.nodes[self.head].parent

    def undo(self) -> None:
        """Goes back to before the last question."""
        self.retry()
        self.head = self.nodes[self.head].parent

    def edit(self, number: int, text: str) -> int:
        """Asks something else in the place of the question `number`; what was stays a branch."""
        if self._node(number).role != "user":
            raise ValueError(f"message {number} is an answer; give the number of a question")
        before = self.head
        self.head = self.nodes[number].parent
        try:
            return self.ask(text)
        except ValueError:
            self.head = before
            raise

    def go(self, number: int) -> None:
        """Continues after message `number`."""
        self._node(number)
        self.head = number

    def last_question(self) -> int:
        """Number of the last question on the way to the head."""
        asked = [i for i in self.path() if self.nodes[i].role == "user"]
        if not asked:
            raise ValueError("nothing was asked yet")
        return asked[-1]

    def _node(self, number: int) -> Node:
        if not 0 <= number < len(self.nodes):
            raise ValueError(f"there is no message {number}; /tree shows all")
        return self.nodes[number]

    def _add(self, role: str, text: str, parent: int) -> int:
        self.nodes.append(Node(role, text, parent))
        self.head = len(self.nodes) - 1
        return self.head

    def tree(self, width: int = 70) -> str:
        """All messages with their numbers, indented where branches part; * is the conversation."""
        children: dict[int, list[int]] = {}
        for number, node in enumerate(self.nodes):
            children.setdefault(node.parent, []).append(number)
        here, lines = set(self.path()), []
        stack = [(number, 0) for number in children.get(-1, [])[::-1]]
        while stack:
            number, depth = stack.pop()
            node, mark = self.nodes[number], "*" if number in here else " "
            text = " ".join(node.text.split())
            short = text if len(text) <= width else text[: width - 1] + "…"
            lines.append(f"{mark} {number:3d} {'  ' * depth}{prompts.ROLES[node.role]}: {short}")
            following = children.get(number, [])
            stack += [(child, depth + (len(following) > 1)) for child in following[::-1]]
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the whole tree as JSON, atomically."""
        stored = {
            "format": FORMAT,
            "system": self.system,
            "head": self.head,
            "nodes": [dataclasses.asdict(node) for node in self.nodes],
        }
        files.write_text(path, json.dumps(stored, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Session:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: it is no session, or a damaged one.
        """
        if Path(path).stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path} is larger than a session can be")
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            if stored["format"] != FORMAT:
                raise ValueError(f"expected format {FORMAT}, got {stored['format']!r:.50}")
            session = cls(_text(stored["system"]))
            for entry in stored["nodes"]:
                session._restore(entry)
            head = stored["head"]
            if type(head) is not int or not -1 <= head < len(session.nodes):
                raise ValueError(f"there is no message {head!r:.50}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not a saved conversation: {error}") from error
        session.head = head
        return session

    def _restore(self, entry: Any) -> None:
        role, text, parent = entry["role"], _text(entry["text"]), entry["parent"]
        if type(parent) is not int or not -1 <= parent < len(self.nodes):
            raise ValueError(f"message {len(self.nodes)} follows {parent!r:.50}")
        before = self.nodes[parent].role if parent >= 0 else "assistant"
        if {role, before} != {"user", "assistant"}:
            raise ValueError(f"message {len(self.nodes)} has the role {role!r:.50} after {before}")
        self.nodes.append(Node(role, prompts.clean(text), parent))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {type(value).__name__}")
    value.encode("utf-8")  # no lone surrogates
    return value
