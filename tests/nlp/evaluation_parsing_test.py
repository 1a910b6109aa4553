# SPDX-License-Identifier: Apache-2.0
"""Answers to labels: every observed shape, and properties on arbitrary text."""

import re
import unicodedata

import pytest

from nlp.evaluation import labels as labels_lib
from nlp.evaluation import mentions, parsing
from nlp.evaluation.labels import LabelSpace

AGGRESSION = LabelSpace(("aggressive", "non-aggressive"))
FUNNY = LabelSpace(("funny", "not funny"))
EMOTIONS = LabelSpace(("joy", "love", "gratitude", "sadness", "neutral", "relief", "realization"))
POLISH = LabelSpace(
    ("pozytywny", "negatywny", "neutralny", "ambiwalentny"),
    (("positive", "pozytywny"), ("negative", "negatywny"), ("ambivalent", "ambiwalentny")),
)
COLA = LabelSpace(
    ("unacceptable", "acceptable"), codes=(("unacceptable", "0"), ("acceptable", "1"))
)
LETTERS = LabelSpace(("T", "F"))
EMOJI = LabelSpace(
    ("❤", "😍", "😂", "🇺🇸"), codes=(("❤", "0"), ("😍", "1"), ("😂", "2"), ("🇺🇸", "3"))
)
SPACES = [AGGRESSION, FUNNY, EMOTIONS, POLISH, COLA, LETTERS, EMOJI]

# Answer -> (label or None, status): the shapes that were seen in real answers, one question each.
ONE = [
    (AGGRESSION, '["aggressive"]', "aggressive", "ok"),
    (AGGRESSION, "['non-aggressive']", "non-aggressive", "ok"),
    (AGGRESSION, "```python\n['aggressive']\n```", "aggressive", "ok"),
    (AGGRESSION, '["Aggressive"]', "aggressive", "repaired"),
    (AGGRESSION, "[aggressive]", "aggressive", "repaired"),
    (AGGRESSION, "[“aggressive”]", "aggressive", "repaired"),
    (AGGRESSION, "non-aggressive", "non-aggressive", "repaired"),
    (AGGRESSION, "Non aggressive.", "non-aggressive", "repaired"),
    (AGGRESSION, 'The attribute is "aggressive".', "aggressive", "repaired"),
    (AGGRESSION, 'I would call it "aggressive", not "non-aggressive".', "aggressive", "repaired"),
    (AGGRESSION, 'The fitting attribute is: ["aggressive"]', "aggressive", "repaired"),
    (AGGRESSION, 'I am sorry you read this. ["aggressive"]', "aggressive", "repaired"),
    (AGGRESSION, '["aggressive", "non-aggressive"]', None, "contradictory"),
    (AGGRESSION, "aggressive or non-aggressive, hard to say", None, "contradictory"),
    (AGGRESSION, '["aggressive"] or rather ["non-aggressive"]', None, "contradictory"),
    (AGGRESSION, '["agressive"]', "aggressive", "near_miss"),
    (AGGRESSION, '["rude"]', None, "oov"),
    (AGGRESSION, '["aggressive", "rude"]', "aggressive", "partial"),
    (AGGRESSION, "It is not aggressive.", None, "unparsed"),
    (AGGRESSION, "super-aggressive", None, "oov"),
    (AGGRESSION, "aggressiveness", None, "oov"),
    (AGGRESSION, "I'm sorry, the text seems to be incomplete.", None, "refusal"),
    (AGGRESSION, "I cannot tell whether this is aggressive.", None, "refusal"),
    (AGGRESSION, "As an AI language model I do not judge aggressive texts.", None, "refusal"),
    (AGGRESSION, "Too many requests in 1 hour. Try again later.", None, "error_text"),
    (AGGRESSION, "An error occurred: aggressive rate limiting", None, "error_text"),
    (AGGRESSION, "", None, "empty"),
    (AGGRESSION, " \n ", None, "empty"),
    (AGGRESSION, "[]", None, "empty"),
    (FUNNY, '["not funny"]', "not funny", "ok"),
    (FUNNY, "The text is not funny.", "not funny", "repaired"),
    (FUNNY, "The text isn't funny.", None, "unparsed"),
    (FUNNY, '"funny" does not describe it', None, "unparsed"),
    (POLISH, "positive - no rude words are used", "pozytywny", "repaired"),
    (POLISH, '["positive"]', "pozytywny", "repaired"),
    (POLISH, "Sentyment tego tekstu: negatywny", "negatywny", "repaired"),
    (POLISH, '["ambiwalwentny"]', "ambiwalentny", "near_miss"),
    (POLISH, "Przepraszam, tekst jest niepełny.", None, "refusal"),
    (COLA, "1", "acceptable", "ok"),
    (COLA, "1 (acceptable)", "acceptable", "repaired"),
    (COLA, "0 (acceptable)", None, "contradictory"),
    (COLA, "The answer is 0.", "unacceptable", "repaired"),
    (COLA, "acceptable", "acceptable", "repaired"),
    (COLA, "2", None, "oov"),
    (COLA, "-1", None, "oov"),
    (COLA, "1.5", None, "oov"),
    (COLA, "10", None, "oov"),
    (AGGRESSION, "I do not think that this text is aggressive.", None, "unparsed"),
    (AGGRESSION, "I don't believe the text is really aggressive", None, "unparsed"),
    (AGGRESSION, "It isn't rude, so it is non-aggressive", "non-aggressive", "repaired"),
    (AGGRESSION, "There is no doubt that this is aggressive", "aggressive", "repaired"),
    (AGGRESSION, "Aggressive: no", None, "oov"),
    (AGGRESSION, "Is it aggressive? No.", None, "unparsed"),
    (AGGRESSION, "['aggressive or not']", None, "oov"),
    (AGGRESSION, 'The answer is not ["aggressive"].', None, "unparsed"),
    (FUNNY, "funny or not funny", None, "contradictory"),
    (COLA, "There is 1 sentence here.", None, "unparsed"),
    (COLA, "The sentence has 1 verb and 0 mistakes of spelling.", None, "unparsed"),
    (COLA, "The answer is 1 because it reads well", "acceptable", "repaired"),
    (COLA, "1 acceptable", "acceptable", "repaired"),
    (COLA, "My answer: 0 as the verb is missing", "unacceptable", "repaired"),
    (LabelSpace(("A", "B")), "A reader would not know", None, "unparsed"),
    (LabelSpace(("A", "B")), "B is correct.", "B", "repaired"),
    (LETTERS, "T", "T", "ok"),
    (LETTERS, "The answer is F.", "F", "repaired"),
    (LETTERS, "It's a t-shirt", None, "oov"),
]


@pytest.mark.parametrize(("space", "answer", "label", "status"), ONE)
def test_observed_shapes_of_one_label(space, answer, label, status):
    unit = parsing.parse_labels(answer, space)
    assert unit.status == status, unit
    assert unit.labels == (None if label is None else (label,))


def test_several_labels():
    many = lambda text, k=None: parsing.parse_labels(text, EMOTIONS, "many", k)
    assert many('["joy", "love"]').labels == ("joy", "love")
    assert many("joy, love and relief").labels == ("joy", "love", "relief")
    unknown = many('["affection", "joy", "hope", "nostalgia"]')
    assert (unknown.status, unknown.labels) == ("partial", ("joy",))
    assert unknown.unknown == ("affection", "hope", "nostalgia")
    excess = many('["joy", "love", "relief"]', 2)
    assert excess.excess and excess.status == "repaired" and len(excess.labels or ()) == 3
    assert many('["madness"]').status == "oov", "one letter from sadness, and another word"
    assert many('["belief"]').status == "oov"
    assert many('["realisation"]').status == "near_miss"


def test_ranked_codes():
    ranked = lambda text: parsing.parse_labels(text, EMOJI, "ranked", 3)
    assert ranked("[2, 0, 1]").labels == ("😂", "❤", "😍")
    assert ranked("[2, 0, 1]").status == "ok"
    assert ranked("😂, ❤️, 🇺🇸").labels == ("😂", "❤", "🇺🇸")
    assert ranked("[2, 0, 1, 3]").labels == ("😂", "❤", "😍")
    assert ranked("[-1]").status == "oov"
    assert ranked("I feel ❤️‍🔥").labels is None, "a heart on fire is another emoji"


def test_sentences_are_ordered_as_numbers():
    space = LabelSpace(("a", "b"))
    answer = '{"1": ["a"], "10": ["b"], "2": ["a", "b"]}'
    units = parsing.parse_units(answer, space, 10)
    assert units[0].labels == ("a",) and units[1].labels == ("a", "b")
    assert units[9].labels == ("b",), "sentence 10 must not sort before sentence 2"
    assert all(u.status == "empty" and u.labels is None for u in units[2:9])
    lines = parsing.parse_units("Zdanie 1: ['a']\nZdanie 2: ['b', 'x']", space, 2)
    assert [u.status for u in lines] == ["repaired", "partial"]
    echo = parsing.parse_units(
        '1. "And here is a b again": ["a"]\n2. "So it is a b then"', space, 2
    )
    assert echo[0].labels == ("a",) and echo[1].labels is None, "a repeated sentence says nothing"
    mixed = parsing.parse_units("{'1': 'a', '2': ['b']}", space, 2)
    assert [u.labels for u in mixed] == [("a",), ("b",)]
    twice = parsing.parse_units('{"1": ["a"], "1": ["b"]}', space, 1)
    assert twice[0].status == "contradictory"


def test_escapes_are_read():
    answer = '["\\u2764", "\\ud83d\\ude0d"]'
    assert parsing.parse_labels(answer, EMOJI, "many").labels == ("❤", "😍")
    assert parsing.parse_labels('["\\ud83d"]', EMOJI).labels is None


def test_numbers_and_spans():
    assert parsing.parse_number("It costs 1,234.50 dollars.").labels == ("1234.50",)
    assert parsing.parse_number("3 + 4 = 7\n#### 7").labels == ("7",)
    assert parsing.parse_number("none").status == "unparsed"
    assert parsing.parse_span("Warsaw").labels == ("Warsaw",)
    assert parsing.parse_span("Unanswerable.", ("unanswerable",)).labels == ("",)
    assert parsing.parse_span("I'm sorry, I don't have that.").status == "refusal"


def test_hostile_nesting_is_linear():
    for text in ("[" * 100_000, '{"7":' * 20_000, '["' * 50_000, "'" * 100_000, "0" * 100_000):
        assert parsing.parse_labels(text, COLA).labels is None
        assert all(u.labels is None for u in parsing.parse_units(text, COLA, 3))
        parsing.parse_number(text)


def test_linter_rejects_both_published_artefacts():
    labels = ("pozytywny", "negatywny", "neutralny", "ambiwalentny")
    polemo = labels_lib.lint(labels, {"ambiwalentny": "ambiwalwentny"})
    assert any("not a label" in f for f in polemo)
    for target in ("none", None, "joy"):
        assert labels_lib.lint(EMOTIONS.labels, {"gratitude": target})
    assert not labels_lib.lint(labels, {"positive": "pozytywny"})
    assert labels_lib.lint(("not_x", "not x")), "equal after normalisation"
    assert labels_lib.lint(("a", "b"), codes={"a": "0", "b": "0"})
    assert labels_lib.lint(("a", "b"), codes={"a": "0"})
    assert labels_lib.lint(("a, b", "c"))
    with pytest.raises(labels_lib.LabelError, match="instead of itself"):
        labels_lib.check(LabelSpace(("gratitude", "joy"), (("gratitude", "joy"),)))


hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


def _words(text):
    """Slow and obvious: alphanumeric runs and single symbols, case-folded."""
    text = unicodedata.normalize("NFC", text).replace("\ufe0f", "").casefold()
    return re.findall(r"[^\W_]+|[^\w\s]", text)


def _plain(text):
    return [w for w in _words(text) if w.isalnum()] or _words(text)


def _says(answer, spelling):
    """Whether the words of `spelling` occur side by side in `answer`."""
    for cut in (_words, _plain):
        said, wanted = cut(answer), cut(spelling)
        if any(said[i : i + len(wanted)] == wanted for i in range(len(said))):
            return True
    return False


def _distance(a, b):
    """Damerau-Levenshtein (optimal string alignment) by the textbook table."""
    table = [
        [max(i, j) if not i or not j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)
    ]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            best = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (not same))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                best = min(best, table[i - 2][j - 2] + 1)
            table[i][j] = best
    return table[len(a)][len(b)]


def _spellings(space, label):
    return (
        [label]
        + [s for s, t in space.aliases if t == label]
        + [c for l, c in space.codes if l == label]
    )


_PIECES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            n
            for s in SPACES
            for n in (*s.labels, *(c for _, c in s.codes), *(a for a, _ in s.aliases))
        ]
        + list("[]{}()\"'`,:;.-_#/\\\n 0123456789")
        + [
            "not ",
            " is ",
            "I'm sorry",
            "non",
            "un",
            "ness",
            "aggresive",
            "“",
            "”",
            "\u200d",
            "\ufe0f",
        ]
    ),
)


@hypothesis.settings(max_examples=400)
@hypothesis.given(
    pieces=st.lists(_PIECES, max_size=10),
    joiner=st.sampled_from(["", " ", ", ", '", "']),
    space=st.sampled_from(SPACES),
    kind=st.sampled_from(["one", "many", "ranked"]),
)
def test_an_answer_never_becomes_a_label_that_was_not_said(pieces, joiner, space, kind):
    answer = joiner.join(pieces)
    unit = parsing.parse_labels(answer, space, kind, 3)
    assert unit.status in parsing.STATUSES
    for label in unit.labels or ():
        assert label in space.labels
        if any(_says(answer, spelling) for spelling in _spellings(space, label)):
            continue
        assert unit.status in ("near_miss", "partial"), (answer, unit)
        runs = re.split(r"[\[\],;\n\"'“”]", answer)
        assert any(
            _distance(labels_lib.normalise(run), labels_lib.normalise(s)) == 1
            for run in runs
            for s in _spellings(space, label)
        ), (answer, unit)
    if kind == "one" and unit.labels:
        assert len(unit.labels) == 1
    if unit.labels is None:
        assert unit.status not in ("ok", "repaired", "near_miss", "partial")


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.binary(max_size=200), st.sampled_from(SPACES), st.integers(1, 10))
def test_no_bytes_crash_a_parser(data, space, count):
    text = data.decode("utf-8", "surrogateescape")
    assert len(parsing.parse_units(text, space, count)) == count
    parsing.parse_labels(text, space)
    parsing.parse_number(text)
    parsing.parse_span(text)


@hypothesis.settings(max_examples=200)
@hypothesis.given(
    space=st.sampled_from(SPACES),
    data=st.data(),
    quote=st.sampled_from(['"', "'", ""]),
    change=st.sampled_from([str, str.upper, str.capitalize]),
    around=st.sampled_from(
        ["{}", "The answer is: {}", "{}\n\nExplanation: it fits best.", "```\n{}\n```"]
    ),
)
def test_lists_survive_quotes_case_and_sentences(space, data, quote, change, around):
    chosen = data.draw(st.lists(st.sampled_from(space.labels), min_size=1, max_size=3, unique=True))
    answer = around.format("[" + ", ".join(f"{quote}{change(c)}{quote}" for c in chosen) + "]")
    unit = parsing.parse_labels(answer, space, "many")
    assert unit.labels == tuple(chosen), (answer, unit)


@hypothesis.given(st.text("abcdefghij", min_size=0, max_size=8), st.text("abcdefghij", max_size=8))
def test_one_slip_agrees_with_the_table(a, b):
    assert mentions._one_slip(a, b) == (_distance(a, b) == 1)
