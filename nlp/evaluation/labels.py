# SPDX-License-Identifier: Apache-2.0
"""Label spaces: the names a task knows, how answers may spell them, and a linter for both."""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping

_QUOTES = "\"'`´‘’‚“”„«»‹›"
_EDGES = _QUOTES + " \t\r\n.,;:!?*()[]{}<>"
_VARIATION_SELECTORS = {0xFE0E: None, 0xFE0F: None}


class LabelError(ValueError):
    """A label space that would score right answers as wrong."""


def normalise(text: str) -> str:
    """Spelling without what does not matter: case, outer quotes and punctuation, kind of hyphen.

    Unicode is composed (NFC), emoji variation selectors are dropped, and runs of blanks, hyphens
    and underscores become one blank, so "Not_Entailment." and "not entailment" are equal.
    """
    text = unicodedata.normalize("NFC", text).translate(_VARIATION_SELECTORS).casefold()
    stripped = text.strip(_EDGES)
    text = stripped or text.strip()
    return re.sub(r"(?<=\w)[\s_\-‐‑–]+(?=\w)|\s+", " ", text).strip()


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """The answers a task accepts.

    Attributes:
      labels: canonical names, in the order of the metric's classes.
      aliases: (other spelling, label) pairs, for instance an English name in a Polish task.
      codes: (label, code) pairs where the prompt asks for a number or letter instead of the name.
    """

    labels: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    codes: tuple[tuple[str, str], ...] = ()

    @functools.cached_property
    def surfaces(self) -> dict[str, str]:
        """Normalised spelling -> label: names, aliases and codes."""
        table = {normalise(spelling): label for spelling, label in self.aliases}
        table.update({normalise(code): label for label, code in self.codes})
        table.update({normalise(label): label for label in self.labels})
        return table

    def resolve(self, spelling: str) -> str | None:
        """The label that a spelling stands for, or None."""
        return self.surfaces.get(normalise(spelling))

    def index(self) -> dict[str, int]:
        """Label -> class number."""
        return {label: i for i, label in enumerate(self.labels)}


def lint(
    labels: Iterable[str],
    aliases: Mapping[str, str | None] | Iterable[tuple[str, str | None]] = (),
    codes: Mapping[str, str] | Iterable[tuple[str, str]] = (),
) -> list[str]:
    """Finds tables that turn right answers into wrong ones or into phantom classes.

    Args:
      labels: the names that gold data uses.
      aliases: spelling -> label.
      codes: label -> code.

    Returns:
      One sentence for each defect; empty if there is none. Found are: an alias whose target is
      not a label (a phantom class), a label whose own name is an alias of something else, labels
      or spellings that cannot be told apart, and names that a list answer cannot carry.
    """
    labels = list(labels)
    alias_pairs = list(aliases.items() if isinstance(aliases, Mapping) else aliases)
    code_pairs = list(codes.items() if isinstance(codes, Mapping) else codes)
    return [
        *_lint_names(labels),
        *_lint_aliases(labels, alias_pairs),
        *_lint_codes(labels, code_pairs, alias_pairs),
    ]


def _lint_names(labels: list[str]) -> list[str]:
    found = []
    seen: dict[str, str] = {}
    for label in labels:
        plain = normalise(label)
        if not plain:
            found.append(f"label {label!r} is empty after normalisation")
        elif plain in seen:
            found.append(f"labels {seen[plain]!r} and {label!r} are equal after normalisation")
        seen.setdefault(plain, label)
        if re.search(r"[\[\],\"\n{}]", label):
            found.append(f"label {label!r} has a character that a list answer cannot carry")
    return found


def _lint_aliases(labels: list[str], pairs: list[tuple[str, str | None]]) -> list[str]:
    found = []
    own = {normalise(label): label for label in labels}
    meaning: dict[str, str | None] = {}
    for spelling, target in pairs:
        plain = normalise(spelling)
        if target not in labels:
            found.append(f"alias {spelling!r} -> {target!r}: the target is not a label")
        if plain in own and own[plain] != target:
            found.append(f"label {own[plain]!r} is mapped to {target!r} instead of itself")
        if plain in meaning and meaning[plain] != target:
            found.append(f"alias {spelling!r} has two targets: {meaning[plain]!r}, {target!r}")
        if not plain:
            found.append(f"alias {spelling!r} is empty after normalisation")
        meaning[plain] = target
    return found


def _lint_codes(
    labels: list[str], pairs: list[tuple[str, str]], aliases: list[tuple[str, str | None]]
) -> list[str]:
    found = []
    names = {normalise(label): label for label in labels}
    names.update({normalise(spelling): target or "" for spelling, target in aliases})
    seen: dict[str, str] = {}
    for label, code in pairs:
        plain = normalise(code)
        if label not in labels:
            found.append(f"code {code!r} belongs to {label!r}, which is not a label")
        if not re.fullmatch(r"\d{1,4}|[A-Za-z]", code):
            found.append(f"code {code!r} of {label!r} is neither a number nor a letter")
        if plain in seen:
            found.append(f"labels {seen[plain]!r} and {label!r} share the code {code!r}")
        if plain in names and names[plain] != label:
            found.append(f"code {code!r} of {label!r} is also a name of {names[plain]!r}")
        seen[plain] = label
    missing = [label for label in labels if label not in dict(pairs)] if pairs else []
    return found + [f"label {label!r} has no code" for label in missing]


def check(space: LabelSpace, where: str = "task") -> None:
    """Raises `LabelError` with all findings of `lint`."""
    findings = lint(space.labels, space.aliases, space.codes)
    if findings:
        raise LabelError(f"{where}: " + "; ".join(findings))
