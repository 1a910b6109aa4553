# SPDX-License-Identifier: Apache-2.0
"""Labels said in running text: whole words only, longest name first, negated ones left out."""

from __future__ import annotations

import dataclasses
import functools
import re

from nlp.evaluation.labels import LabelSpace, normalise

_NEGATORS = frozenset(
    """not no never neither nor without non cannot hardly isn't aren't wasn't doesn't don't didn't
    can't couldn't won't wouldn't shouldn't nie ani bez żaden żadna żadne""".split()
)
_INSTEAD = re.compile(r"(?:instead of|rather than|as opposed to|unlike|than|zamiast|niż)\W*$", re.I)
_DENIED_AFTER = re.compile(
    r"^[\"'”’»)\]]*\s*(?:(?:is|are|does|do|was|would|could|can|should|label|emotion|nie)\s*"
    r"(?:not\b|n['’]t|cannot\b|pasuje)|(?:is|are|does|do|was|would|could|ca|should)n['’]t|nie\b)",
    re.I,
)
# "does not think that the text is ...": the denial reaches as far as the clause.
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n['’]t|\bcannot|\bnever|\bhardly|\bnie|\bno\b(?! (?:doubt|question)))\b"
    r"(?:(?!\b(?:so|because|since|therefore|thus|hence|and|but|which|więc|bo|i|ale)\b)[^,])*$"
    r"|\b(?:far from|lacks?|lacking|absence of)\W*$",
    re.I,
)
_VERDICT_AFTER = re.compile(
    r"^[\"'”’»)\]]*\s*(?:[:=?–-]\s*(?:no|false|nie)(?=\s*(?:[.,;!\n]|$))|or not\b(?!\s+\w)"
    r"|(?:is|was|would be) (?:wrong|incorrect|false)\b)",
    re.I,
)
_DENIED_LIST = re.compile(
    r"(?:\bnot|n['’]t|\bnie|instead of|rather than|as opposed to|zamiast)\s*(?:be\s*)?$", re.I
)
# A digit or letter that a word follows counts or is an article ("2 words", "A text"), unless
# something marks it as the answer ("is 2", "2 because").
_LEADS_TO_CODE = re.compile(
    r"(?:(?<!\bthere )(?<!\bthat )\b(?:is|be)|\b(?:answer|label|class|integer|number|option|choose"
    r"|select|pick|odpowiedź|to|jest))\W*$|[:=>\"'(\[]\s*$",
    re.I,
)
_FOLLOWS_CODE = re.compile(
    r"\s+(?:because|since|as|for|is|was|meaning|which|ponieważ|bo|czyli|jest"
    r"|(?:or|and|lub|i)\s+\S{1,2}(?!\w))\b",
    re.I,
)
_CLAUSE_END = re.compile(r"[.;:!?\n]|,\s*(?:but|only|ale|lecz)\b", re.I)
_OPEN, _CLOSE = "\"'`“‘„«", "\"'`”’“»"


@dataclasses.dataclass(frozen=True)
class Mention:
    """A label found in a text, at [start, end); `quoted` if quotation marks enclose it."""

    label: str
    start: int
    end: int
    quoted: bool


def find(text: str, space: LabelSpace, codes: bool = True) -> list[Mention]:
    """Labels that `text` says and does not deny, in order of appearance.

    Args:
      text: an answer, NFC.
      space: the names to look for.
      codes: whether numbers and letters that stand for labels count.
    """
    found = []
    for match in _pattern(space, codes).finditer(text):
        label = space.resolve(match.group())
        if label is None or _shouted_letter(match.group(), space):
            continue
        start, end = match.span()
        if len(match.group()) <= 2 and _incidental(text, start, end, space):
            continue
        if not _denied(text, start, end):
            before, after = text[:start].rstrip()[-1:], text[end:].lstrip()[:1]
            quoted = bool(before and after and before in _OPEN and after in _CLOSE)
            found.append(Mention(label, start, end, quoted))
    return found


@functools.lru_cache(maxsize=512)
def _pattern(space: LabelSpace, codes: bool) -> re.Pattern[str]:
    names = [*space.labels, *(spelling for spelling, _ in space.aliases)]
    if codes:
        names += [code for _, code in space.codes]
    ordered = sorted({n for n in names if n}, key=lambda n: (-len(n), n))
    return re.compile("|".join(_surface(name) for name in ordered) or r"(?!)", re.IGNORECASE)


def _surface(name: str) -> str:
    """Pattern of one name with its word borders."""
    if name.isdigit():
        return rf"(?<![\w.,+\-−/]){name}(?![\w%/]|[.,:\-]\d)"
    words = re.split(r"[\s_\-]+", name)
    body = r"[\s_\-‐‑–]+".join(re.escape(word) for word in words if word)
    if not body:
        return re.escape(name)
    left = r"(?<!\w)(?<!\w[\-'’_])(?<![@#\\])" if re.match(r"\w", name) else "(?<!\u200d)"
    right = r"(?!\w)(?![\-'’_]\w)" if re.search(r"\w$", name) else "\ufe0f?(?![\u200d\ufe0f])"
    return left + body + right


def _shouted_letter(found: str, space: LabelSpace) -> bool:
    """One-letter names are words of their own ("a"); in running text only the exact case counts."""
    return len(found) == 1 and found.isalpha() and found not in _letters(space)


@functools.lru_cache(maxsize=512)
def _letters(space: LabelSpace) -> frozenset[str]:
    names = {*space.labels, *(s for s, _ in space.aliases), *(c for _, c in space.codes)}
    return frozenset(name for name in names if len(name) == 1)


def _denied(text: str, start: int, end: int) -> bool:
    clause = _CLAUSE_END.split(text[max(0, start - 120) : start])[-1]
    if _INSTEAD.search(clause) or _DENIED_BEFORE.search(clause):
        return True
    words = re.findall(r"[\w'’]+", clause.casefold().replace("’", "'"))
    after = text[end : end + 40]
    return bool(
        _NEGATORS & set(words[-4:]) or _DENIED_AFTER.search(after) or _VERDICT_AFTER.search(after)
    )


def _incidental(text: str, start: int, end: int, space: LabelSpace) -> bool:
    """Whether a digit or letter is part of a sentence rather than a code."""
    after = text[end : end + 60]
    if not text[start:end].isalnum() or not re.match(r"[ \t]+[^\W\d_]", after):
        return False
    if _LEADS_TO_CODE.search(text[max(0, start - 30) : start]) or _FOLLOWS_CODE.match(after):
        return False
    name = _pattern(space, False).match(after.lstrip())
    return name is None or len(name.group()) < 3  # "1 acceptable" names its code


def list_is_denied(before: str) -> bool:
    """Whether the text before a list denies it: "not [...]", "instead of [...]"."""
    return bool(_DENIED_LIST.search(before[-40:]))


def near_miss(word: str, space: LabelSpace) -> str | None:
    """The only name that is one typing slip away from `word`, if there is one.

    A slip is one letter missing, added, replaced or two neighbours swapped. Names under six letters
    and slips in the first letter are not considered ("belief" is no misspelt "relief").
    """
    plain = normalise(word)
    if len(plain) < 5 or len(plain) > 60 or plain in space.surfaces:
        return None
    hits = {
        label
        for surface, label in space.surfaces.items()
        if len(surface) >= 6 and surface[0] == plain[0] and _one_slip(surface, plain)
    }
    return hits.pop() if len(hits) == 1 else None


def _one_slip(a: str, b: str) -> bool:
    """Whether the Damerau-Levenshtein distance (optimal string alignment) is exactly one."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if first is None:
        return True
    x, y = a[first:], b[first:]
    swapped = len(x) >= 2 and len(y) >= 2 and x[:2] == y[1::-1] and x[2:] == y[2:]
    return x[1:] == y[1:] or x[1:] == y or x == y[1:] or swapped
