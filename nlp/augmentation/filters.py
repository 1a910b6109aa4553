# SPDX-License-Identifier: Apache-2.0
"""Which generated texts are used: filters in a fixed order, with the reason of each refusal.

failed      no answer, or an empty one
refusal     the generator speaks of itself instead of writing the text
length      much shorter or longer than the source
copy        nearly the source itself
duplicate   the same text was made before, or is in the original data
language    letters of another script, or function words of another language, than the source's
label       a classifier trained on the original texts is sure of another label
"""

from __future__ import annotations

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from nlp.augmentation.conversations import Generated, Source

REASONS = ("failed", "refusal", "length", "copy", "duplicate", "language", "label")
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|language model)|\b(?:i am|i'm) (?:sorry|unable|not able)\b"
    r"|\bi (?:cannot|can't|won't|will not) (?:write|help|assist|provide|create|paraphrase|generate)"
    r"|\bi apologi[sz]e\b",
    re.I,
)
_WORDS = re.compile(r"[^\W\d_]+", re.UNICODE)

# Frequent function words; enough to tell these languages apart in a sentence or two.
FUNCTION_WORDS = {
    "en": "the and of to in is that it was for with as on but this his her are you not",
    "pl": "i w nie na się z do to że jest jak o za co po ale tak przez dla czy",
    "de": "der die und das ist nicht ein zu in den mit sich auf für von dem eine auch es",
    "fr": "le la les et est des une un que pas dans pour qui sur avec il ne se ce",
    "es": "el la los que y en un una es no se por con para las del lo su al",
    "it": "il la che di e un una è non per con sono del della le si da al",
    "nl": "de het een en van is dat niet op te zijn met voor die er maar ook",
    "pt": "o a os que e em um uma é não se por com para as do da no na",
}
_VOCABULARY = {name: frozenset(words.split()) for name, words in FUNCTION_WORDS.items()}


@dataclasses.dataclass(frozen=True)
class Filters:
    """Limits; 0 turns a filter off where it says so.

    Attributes:
      refusals, duplicates, language: whether these filters are on.
      shortest, longest: words of the text, relative to the source's; 0 is off.
      min_words: fewer words than this are always too short.
      copy: similarity (Jaccard of words) at which a text is a copy of its source; 0 is off.
      sure: probability of another label at which a text is refused; 0 is off.
    """

    refusals: bool = True
    duplicates: bool = True
    language: bool = True
    shortest: float = 0.25
    longest: float = 4.0
    min_words: int = 2
    copy: float = 0.95
    sure: float = 0.9

    def __post_init__(self) -> None:
        if min(self.shortest, self.longest, self.copy, self.sure, self.min_words) < 0:
            raise ValueError(f"limits must not be negative: {self}")


Classifier = Callable[[Sequence[str]], tuple[list[str], np.ndarray]]


def apply(
    generated: Sequence[Generated],
    sources: Sequence[Source],
    how: Filters | None = None,
    classifier: Classifier | None = None,
) -> tuple[list[Generated], dict[str, collections.Counter[str]]]:
    """Texts that pass, and for each kind how often each reason refused one.

    Args:
      generated: in their order; of duplicates the first stays.
      sources: what they were made from.
      how: see `Filters`.
      classifier: texts -> (labels, probabilities [n, labels]); needed for the label filter.

    Raises:
      ValueError: a text of an unknown source.
    """
    how = how or Filters()
    by_id = {source.id: source for source in sources}
    seen = {normal(source.text) for source in sources}
    reasons: dict[str, collections.Counter[str]] = {}
    kept: list[Generated] = []
    for item in generated:
        if item.source not in by_id:
            raise ValueError(f"text of an unknown source {item.source!r}")
        reason = _refused(item, by_id[item.source], how, seen)
        if reason:
            reasons.setdefault(item.kind, collections.Counter())[reason] += 1
        else:
            seen.add(normal(item.text))
            kept.append(item)
    if how.sure and classifier is not None and kept:
        kept = _agreeing(kept, how.sure, classifier, reasons)
    return kept, reasons


def _refused(item: Generated, source: Source, how: Filters, seen: set[str]) -> str:
    """The first reason against a text, or ""."""
    if item.status != "ok" or not item.text.strip():
        return "failed"
    if how.refusals and _REFUSAL.search(item.text) and not _REFUSAL.search(source.text):
        return "refusal"
    words, original = item.text.split(), source.text.split()
    if len(words) < how.min_words or len(words) < how.shortest * len(original):
        return "length"
    if how.longest and len(words) > how.longest * max(len(original), how.min_words):
        return "length"
    if how.copy and similarity(item.text, source.text) >= how.copy:
        return "copy"
    if how.duplicates and normal(item.text) in seen:
        return "duplicate"
    if how.language and not same_language(item.text, source.text):
        return "language"
    return ""


def _agreeing(
    kept: list[Generated],
    sure: float,
    classifier: Classifier,
    reasons: dict[str, collections.Counter[str]],
) -> list[Generated]:
    labels, probabilities = classifier([item.text for item in kept])
    best = probabilities.argmax(axis=1)
    agreeing = []
    for item, column, row in zip(kept, best, probabilities, strict=True):
        if labels[column] != item.label and row[column] >= sure:
            reasons.setdefault(item.kind, collections.Counter())["label"] += 1
        else:
            agreeing.append(item)
    return agreeing


def normal(text: str) -> str:
    """Words in lower case, for comparing texts."""
    return " ".join(_WORDS.findall(unicodedata.normalize("NFC", text).lower()))


def similarity(first: str, second: str) -> float:
    """Jaccard index of the words of two texts; 1 for two texts without words."""
    a, b = set(normal(first).split()), set(normal(second).split())
    return len(a & b) / len(a | b) if a | b else 1.0


def same_language(first: str, second: str) -> bool:
    """Whether two texts share the script and, as far as function words tell, the language."""
    if script(first) != script(second) and "" not in (script(first), script(second)):
        return False
    one, two = language(first), language(second)
    return "" in (one, two) or one == two


def script(text: str) -> str:
    """Most frequent script of the letters ("LATIN", "CYRILLIC", ...), "" without letters."""
    counts = collections.Counter(
        unicodedata.name(c, "OTHER").split()[0] for c in text if c.isalpha()
    )
    return counts.most_common(1)[0][0] if counts else ""


def language(text: str) -> str:
    """The language with the most function words in a text; "" if fewer than 2, or a draw."""
    words = normal(text).split()
    counts = {name: sum(w in own for w in words) for name, own in _VOCABULARY.items()}
    (best, most), (_, second) = sorted(counts.items(), key=lambda kv: -kv[1])[:2]
    return best if most >= 2 and most > second else ""
