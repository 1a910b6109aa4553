# SPDX-License-Identifier: Apache-2.0
"""The chat format of the World models.

    System: You are brief.

    User: What is 2 + 2?

    Assistant: 4

    User: ...

    Assistant:

An empty line ends a message, so messages themselves hold none: `clean` collapses them, as the
official programs do. There is no space after the last colon; the model draws it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from rwkvjax.tokenizers import Tokenizer

ROLES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
END = "\n\n"  # ends a message
OPEN = "Assistant:"

Message = tuple[str, str]  # (role, text)


def clean(text: str) -> str:
    """A message without empty lines, carriage returns and white space around it."""
    return re.sub(r"\n{2,}", "\n", re.sub(r"\r\n?", "\n", text).strip())


def turn(role: str, text: str) -> str:
    """One finished message.

    Raises:
      ValueError: an unknown role.
    """
    if role not in ROLES:
        raise ValueError(f"expected one of the roles {', '.join(ROLES)}, got {role!r:.50}")
    return f"{ROLES[role]}: {clean(text)}{END}"


def conversation(messages: Iterable[Message]) -> str:
    """The prompt that asks for the next answer of the assistant."""
    return "".join(turn(role, text) for role, text in messages) + OPEN


def shared_lengths(tokenizer: Tokenizer, messages: Sequence[Message], ids: np.ndarray) -> list[int]:
    """Token counts of beginnings that other conversations are likely to share.

    That is the leading system messages, where a token ends exactly there.
    """
    leading = 0
    while leading < len(messages) and messages[leading][0] in ("system", "developer"):
        leading += 1
    if not leading or leading == len(messages):
        return []
    wanted = len("".join(turn(*m) for m in messages[:leading]).encode())
    ends = 0
    for count, token in enumerate(ids, start=1):
        ends += len(tokenizer.decode_bytes([int(token)]))
        if ends >= wanted:
            return [count] if ends == wanted else []
    return []
