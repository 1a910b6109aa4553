# SPDX-License-Identifier: Apache-2.0
"""Prompts from templates. Data can fill a slot but never become part of the template.

A template has slots `{name}`; `{{` and `}}` are braces. Slots are filled in one pass, so braces in
a text stay text. Every text of the data enters as one quoted string: quotes and backslashes are
escaped and line ends are written as "\\n", so it cannot close its quotation, start a new line of
the prompt, add a label, or pose as another example.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

_SLOT = re.compile(r"\{\{|\}\}|\{(\w+)\}|[{}]")
_LINE_ENDS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085", "\x7f": "\\u007f"}


class PromptError(ValueError):
    """A template that cannot be filled."""


def quote(text: str) -> str:
    """A text of the data as one quoted string on one line (a JSON string)."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be sent
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub("[\u2028\u2029\x85\x7f]", lambda m: _LINE_ENDS[m.group()], quoted)


def slots(template: str) -> list[str]:
    """Names of the slots, in order.

    Raises:
      PromptError: a brace that belongs to no slot.
    """
    names = []
    for match in _SLOT.finditer(template):
        if match.group() in ("{", "}"):
            around = template[max(0, match.start() - 20) : match.end() + 20]
            raise PromptError(f"a lone brace in the template near {around!r}; write {{{{ or }}}}")
        if match.group(1):
            names.append(match.group(1))
    return names


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fills all slots in one pass.

    Raises:
      PromptError: a slot without a value, or a lone brace.
    """

    def value(match: re.Match[str]) -> str:
        if match.group() == "{{":
            return "{"
        if match.group() == "}}":
            return "}"
        if not match.group(1):
            raise PromptError("a lone brace in the template; write {{ or }}")
        if match.group(1) not in values:
            raise PromptError(f"slot {match.group(1)!r} has no value; known: {sorted(values)}")
        return values[match.group(1)]

    return _SLOT.sub(value, template)


def shared_prefix(template: str, fixed: Mapping[str, str]) -> int:
    """Number of leading characters that do not depend on the item."""
    for match in _SLOT.finditer(template):
        if match.group(1) and match.group(1) not in fixed:
            return len(fill(template[: match.start()], fixed))
    return len(fill(template, fixed))


def listed(labels: Sequence[str]) -> str:
    """Labels as a quoted enumeration: "a", "b", "c"."""
    return ", ".join(quote(label) for label in labels)


def coded(codes: Sequence[tuple[str, str]]) -> str:
    """Labels with the codes that stand for them: negative: 0, neutral: 1."""
    return ", ".join(f"{label}: {code}" for label, code in codes)


def numbered(sentences: Sequence[str]) -> str:
    """Sentences on numbered lines, each quoted."""
    return "\n".join(f"{i}. {quote(s)}" for i, s in enumerate(sentences, 1))


def described(choices: Sequence[tuple[str, str]]) -> str:
    """Choices of one item with what they mean, on lines of their own."""
    return "\n".join(f"{quote(key)}: {quote(meaning)}" for key, meaning in choices)
