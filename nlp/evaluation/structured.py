# SPDX-License-Identifier: Apache-2.0
"""Lists and JSON-like objects in answers, read without evaluating anything.

The grammar is the overlap of Python and JSON that models write, and its usual accidents: unquoted
words in brackets, curly quotes, a missing closing bracket. Work is linear in the length of the text
and nothing recurses, so hostile nesting costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Element = tuple[str, bool]  # text, and whether it was a proper literal

_PAIRS = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "„": "”", "«": "»"}
_STRAIGHT = ('"', "'")
_MAX_ELEMENTS = 200
_LABEL_WORDS = 4
_LIST_NEXT = re.compile(r"[^\n\[\]{}\"'“”„,\d]{0,20}\[")
_KEY = re.compile(
    r"[\"'“]?(?:zdanie|sentence|no\.?|nr\.?)?\s{0,3}(\d{1,4})\s{0,3}[\"'”]?\s{0,3}[:.)]\s{0,3}"
    r"(?=[\[\"'“])",
    re.I,
)


def whole_list(text: str) -> list[Element] | None:
    """Elements if the whole text is one flat list ("[...]"), else None."""
    if not text.startswith("["):
        return None
    elements, end = _read(text, 0)
    return elements if elements is not None and not text[end:].strip(" \t\n.;") else None


def lists_in(
    text: str, limit: int = 20, skip: Callable[[str], bool] = lambda before: False
) -> list[list[Element]]:
    """Elements of the flat lists inside a text, at most `limit` of them.

    Lists are left out for which `skip` is true of the 40 characters before them.
    """
    found: list[list[Element]] = []
    position = text.find("[")
    while position >= 0 and len(found) < limit:
        elements, end = _read(text, position)
        if elements is not None:
            if not skip(text[max(0, position - 40) : position]):
                found.append(elements)
            position = text.find("[", end)
        else:
            position = text.find("[", position + 1)
    return found


def numbered_lists(text: str) -> tuple[list[tuple[int, list[Element]]], bool]:
    """Entries `number: [labels]` of an object or of numbered lines.

    Returns:
      (entries in order of appearance, whether the text was one object and nothing else).
    """
    entries: list[tuple[int, list[Element]]] = []
    position = 0
    while match := _KEY.search(text, position):
        if text[match.end()] == "[":
            elements, position = _read(text, match.end())
        else:
            element, position = _literal(text, match.end())
            elements = [element] if element is not None else None
            if own_list := _LIST_NEXT.match(text, position):  # 1. "the sentence": ["label"]
                elements, position = _read(text, own_list.end() - 1)
            elif element is not None and len(element[0].split()) > _LABEL_WORDS:
                elements = None  # the sentence repeated, not a label
        if elements is not None:
            entries.append((int(match.group(1)), elements))
        position = max(position, match.end())
        if len(entries) >= _MAX_ELEMENTS:
            break
    exact = text.startswith("{") and text.endswith("}") and '"' in text
    return entries, exact


def _read(text: str, start: int) -> tuple[list[Element] | None, int]:
    """Reads a flat list at `text[start] == "["`: (elements or None, position after it)."""
    elements: list[Element] = []
    i = start + 1
    while i < len(text):
        i = _skip(text, i)
        if i >= len(text):
            break
        if text[i] == "]":
            return elements, i + 1
        if text[i] in "[{" or len(elements) >= _MAX_ELEMENTS:
            return None, i
        if text[i] in _PAIRS:
            element, i = _literal(text, i)
            if element is None:
                return None, i
            i = _skip_blank(text, i)
            if i < len(text) and text[i] not in ",]":
                return None, i
        else:
            j = i
            while j < len(text) and text[j] not in ",]\n[":
                j += 1
            word = text[i:j].strip()
            element, i = (word, word.isdigit()), j
        if element[0]:
            elements.append(element)
    return None, len(text)


def _literal(text: str, start: int) -> tuple[Element | None, int]:
    """Reads a quoted string at `start`; an apostrophe inside a word does not end it."""
    opening = text[start]
    closing = _PAIRS[opening]
    i = start + 1
    while i < len(text) and i - start < 2000:
        if text[i] == "\\" and i + 1 < len(text):
            i += 2
            continue
        inside = closing in "'’" and text[i - 1 : i].isalnum() and text[i + 1 : i + 2].isalnum()
        if text[i] == closing and not inside:
            raw = text[start + 1 : i]
            return (_unescape(raw), opening in _STRAIGHT), i + 1
        i += 1
    return None, i


def _unescape(raw: str) -> str:
    """Undoes backslashes: \\uXXXX, with surrogate pairs, and single characters."""
    character = lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 5 else m[1]
    text = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", character, raw, flags=re.S)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _skip(text: str, i: int) -> int:
    while i < len(text) and text[i] in " \t\n,":
        i += 1
    return i


def _skip_blank(text: str, i: int) -> int:
    while i < len(text) and text[i] in " \t\n":
        i += 1
    return i
