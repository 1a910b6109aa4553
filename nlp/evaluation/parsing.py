# SPDX-License-Identifier: Apache-2.0
"""From the text of an answer to labels: ordered, pure extractors that never guess.

Order: list or JSON of exact labels -> list in other spellings -> service error or refusal -> list
inside a sentence -> quoted label -> whole-word label or code -> typing slip -> nothing. The first
that finds something decides. An answer that names two labels where one was asked is no answer.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, get_args

from nlp.evaluation import mentions, structured
from nlp.evaluation.labels import LabelSpace

Kind = Literal["one", "many", "ranked"]
Status = Literal[
    "ok", "repaired", "near_miss", "partial", "oov", "contradictory", "empty", "refusal",
    "error_text", "unparsed",
]  # fmt: skip
STATUSES: tuple[str, ...] = get_args(Status)
MAX_CHARACTERS = 20_000

_REFUSAL = re.compile(
    r"\b(?:i['’]?m sorry|i am sorry|sorry, |i apologi[sz]e|as an ai\b|as a (?:large )?language"
    r" model|i (?:can ?not|can['’]t|am unable|['’]?m unable|do not have|don['’]t have|won['’]t)\b"
    r"|unable to (?:determine|answer|assist|provide)|incomplete text|text (?:is|seems|appears)"
    r" (?:to be )?(?:incomplete|missing|cut off)|not enough (?:context|information)"
    r"|please provide|przepraszam|przykro mi|nie mogę|nie jestem w stanie|jako model język)",
    re.I,
)
_ERROR_TEXT = re.compile(
    r"^\W*(?:error\b|http(?:/\d\S*)? ?[45]\d\d|[45]\d\d (?:bad|too|internal|service|gateway)"
    r"|internal server error|too many requests|rate limit|bad gateway|service unavailable"
    r"|gateway time-?out|request timed out|an error occurred|something went wrong|network error"
    r"|connection (?:error|reset|aborted)|<!doctype html|<html)",
    re.I,
)


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one question of an item was answered with (most items have one).

    Attributes:
      labels: labels said, in order; None if there was no usable answer.
      status: see `STATUSES`.
      unknown: list elements that are no label.
      extractor: name of the extractor that decided ("" if none).
      excess: more labels than asked for.
    """

    labels: tuple[str, ...] | None
    status: Status
    unknown: tuple[str, ...] = ()
    extractor: str = ""
    excess: bool = False


def clean(answer: str | None) -> str:
    """NFC without control characters, code fences and outer blanks, cut to a length."""
    text = unicodedata.normalize("NFC", (answer or "")[:MAX_CHARACTERS])
    text = "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else _kept(c) for c in text
    )
    text = text.strip()
    fenced = re.fullmatch(r"```[a-zA-Z]*\n?(.*?)\n?```", text, re.S)
    return fenced.group(1).strip() if fenced else text


def _kept(character: str) -> str:
    return character if character == "\u200d" else " "  # joins emoji


def parse_labels(
    answer: str | None,
    space: LabelSpace,
    kind: Kind = "one",
    asked: int | None = None,
    may_be_empty: bool = False,
) -> Unit:
    """Reads labels from an answer.

    Args:
      answer: text of the answer.
      space: labels, aliases and codes of the task.
      kind: "one" label, "many" (a set), or "ranked" (best first).
      asked: how many labels were asked for, if the prompt said so.
      may_be_empty: an empty list is an answer: none of the labels.
    """
    text = clean(answer)
    if not text:
        return Unit(None, "empty")
    whole = structured.whole_list(text)
    if whole == [] and may_be_empty:
        return Unit((), "ok", extractor="list")
    if whole is not None:
        return _from_elements(whole, space, kind, asked, "list")
    if (label := space.resolve(text)) is not None:
        asked_bare = dict(space.codes).get(label, label if len(label) == 1 else "")
        exact = text == asked_bare
        return Unit((label,), "ok" if exact else "repaired", extractor="bare")
    if _ERROR_TEXT.search(text):
        return Unit(None, "error_text", extractor="error_text")
    lists = structured.lists_in(text, skip=mentions.list_is_denied)
    inner = [part for part in lists if _names_any(part, space)]
    if inner:
        return _from_lists(inner, space, kind, asked)
    if _REFUSAL.search(text):
        return Unit(None, "refusal", extractor="refusal")
    said = mentions.find(text, space)
    quoted = [m for m in said if m.quoted]
    for chosen, name in ((quoted, "quoted"), (said, "words")):
        if chosen:
            return _decide([m.label for m in chosen], kind, asked, "repaired", name)
    return _nothing(text, space, kind, asked)


def _names_any(elements: Sequence[structured.Element], space: LabelSpace) -> bool:
    return any(_element(e, space)[0] for e in elements)


def _from_lists(
    lists: Sequence[Sequence[structured.Element]],
    space: LabelSpace,
    kind: Kind,
    asked: int | None,
) -> Unit:
    """Lists inside a sentence; several must agree, as sets."""
    units = [_from_elements(part, space, kind, asked, "inner_list") for part in lists]
    if len({frozenset(u.labels or ()) for u in units}) > 1:
        return Unit(None, "contradictory", extractor="inner_list")
    unit = units[-1]
    return dataclasses.replace(unit, status="repaired") if unit.status == "ok" else unit


def _element(element: structured.Element, space: LabelSpace) -> tuple[str | None, Status]:
    """Label of one list element and how it was spelt."""
    text, literal = element
    label = space.resolve(text)
    if label is None:
        named = {m.label for m in mentions.find(text, space)} if len(text) < 200 else set()
        return (named.pop(), "repaired") if len(named) == 1 else (None, "oov")
    if space.codes:
        return label, "ok" if text == dict(space.codes)[label] else "repaired"
    return label, "ok" if literal and text == label else "repaired"


def _from_elements(
    elements: Sequence[structured.Element],
    space: LabelSpace,
    kind: Kind,
    asked: int | None,
    name: str,
) -> Unit:
    if not elements:
        return Unit(None, "empty", extractor=name)
    labels: list[str] = []
    unknown: list[str] = []
    worst: Status = "ok"
    for element in elements:
        label, status = _element(element, space)
        if label is None and (label := mentions.near_miss(element[0], space)):
            status = "near_miss"
        if label is None:
            unknown.append(element[0][:80])
            continue
        labels.append(label)
        worst = max(worst, status, key=STATUSES.index)
    if not labels:
        return Unit(None, "oov", tuple(unknown), name)
    if unknown:
        worst = "partial"
    return _decide(labels, kind, asked, worst, name, tuple(unknown))


def _decide(
    labels: Sequence[str],
    kind: Kind,
    asked: int | None,
    status: Status,
    name: str,
    unknown: tuple[str, ...] = (),
) -> Unit:
    """Applies the rules of the question to the labels said."""
    distinct = tuple(dict.fromkeys(labels))
    if kind == "one":
        if len(distinct) > 1:
            return Unit(None, "contradictory", unknown, name, excess=True)
        return Unit(distinct, status, unknown, name, excess=len(labels) > 1)
    excess = asked is not None and len(distinct) > asked
    if excess and kind == "ranked":
        distinct = distinct[:asked]
    if status == "ok" and (excess or len(distinct) < len(labels)):
        status = "repaired"
    return Unit(distinct, status, unknown, name, excess)


def _nothing(text: str, space: LabelSpace, kind: Kind, asked: int | None) -> Unit:
    """No label was said: a typing slip, a word outside the set, or nothing that can be read."""
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    if len(text) <= 80 * max(asked or 1, 3) and all(len(p.split()) <= 3 for p in parts):
        slips = [mentions.near_miss(part, space) for part in parts]
        if slips and all(slips):
            return _decide([s for s in slips if s], kind, asked, "near_miss", "near_miss")
        if parts and not any(mentions.find(p, space) for p in parts):
            return Unit(None, "oov", tuple(p[:80] for p in parts[:10]), "bare")
    return Unit(None, "unparsed")


def parse_units(answer: str | None, space: LabelSpace, count: int) -> tuple[Unit, ...]:
    """Reads a JSON object from sentence number to labels: one unit for each of `count` sentences.

    Numbers are compared as integers, so sentence 10 does not sort before sentence 2. A number
    that occurs twice with different labels is contradictory.
    """
    text = clean(answer)
    if not text:
        return (Unit(None, "empty"),) * count
    entries, exact = structured.numbered_lists(text)
    if not entries:
        error: Status = "error_text" if _ERROR_TEXT.search(text) else "unparsed"
        status: Status = "refusal" if _REFUSAL.search(text) and error == "unparsed" else error
        return (Unit(None, status),) * count
    units = []
    for number in range(1, count + 1):
        found = [e for n, e in entries if n == number]
        if not found:
            units.append(Unit(None, "empty", extractor="object"))
            continue
        parsed = [_from_elements(e, space, "many", None, "object") for e in found]
        unit = parsed[0]
        if len({frozenset(p.labels or ()) for p in parsed}) > 1:
            unit = Unit(None, "contradictory", extractor="object")
        elif unit.status == "ok" and not exact:
            unit = dataclasses.replace(unit, status="repaired")
        units.append(unit)
    return tuple(units)


def parse_number(answer: str | None) -> Unit:
    """The final number of an answer: after "####" if present, else the last one."""
    text = clean(answer)
    if not text:
        return Unit(None, "empty")
    tail = text.rsplit("####", 1)[-1] if "####" in text else text
    numbers = re.findall(
        r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,20})?(?!\w)", tail
    )
    if not numbers:
        return Unit(None, _unread(text))
    value = numbers[-1].replace(",", "").replace("−", "-")
    plain = text == numbers[-1]
    return Unit((value,), "ok" if plain else "repaired", extractor="number")


def parse_span(answer: str | None, empty_answers: Sequence[str] = ()) -> Unit:
    """A piece of text. One of `empty_answers` ("unanswerable") becomes the empty span."""
    text = clean(answer).strip("\"'“”` ")
    if not text:
        return Unit(None, "empty")
    if _ERROR_TEXT.search(text):
        return Unit(None, "error_text", extractor="error_text")
    if re.sub(r"[\W_]+", " ", text.casefold()).strip() in {e.casefold() for e in empty_answers}:
        return Unit(("",), "ok", extractor="span")
    if _REFUSAL.search(text):
        return Unit(None, "refusal", extractor="refusal")
    return Unit((text,), "ok", extractor="span")


def _unread(text: str) -> Status:
    if _ERROR_TEXT.search(text):
        return "error_text"
    return "refusal" if _REFUSAL.search(text) else "unparsed"
