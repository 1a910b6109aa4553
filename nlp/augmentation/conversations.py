# SPDX-License-Identifier: Apache-2.0
"""The four kinds of generated texts of arXiv 2312.04720, as conversations; the wording is our own.

  para        a paraphrase that keeps the sentiment
  para_conv   a second turn of the same conversation: another paraphrase, with more words changed
  insp        a text on an entirely different theme, inspired by the source, same sentiment
  insp_lab    the same, and the wanted label is named

A new text inherits the label of its source. "sentiment" is what the configuration calls the label.
"""

from __future__ import annotations

import dataclasses

from nlp.evaluation.records import Messages

KINDS = ("para", "para_conv", "insp", "insp_lab")


@dataclasses.dataclass(frozen=True)
class Source:
    """A labelled text of the training part."""

    id: str
    text: str
    label: str

    def __post_init__(self) -> None:
        if not self.id or not self.text.strip() or not self.label:
            raise ValueError(f"source {self.id!r}: id, text and label must not be empty")


@dataclasses.dataclass(frozen=True)
class Generated:
    """A text made from a source, or why there is none.

    Attributes:
      source: id of the source. kind: one of `KINDS`. label: of the source.
      text: the new text on one line; "" if status is not "ok".
      status: of the response, or "no_first_turn".
    """

    source: str
    kind: str
    label: str
    text: str = ""
    status: str = "ok"


def first_turn(source: Source, kind: str, what: str = "sentiment") -> Messages:
    """The first message of a conversation of a kind ("para_conv" starts as "para" does)."""
    theme = "Take this text as an inspiration and write a text about an entirely different theme."
    asked = {
        "para": f"Write a paraphrase of this text. Keep its {what}.",
        "insp": f"{theme} It must have the same {what}.",
        "insp_lab": f"{theme} Its {what} must be: {source.label}.",
    }
    asked["para_conv"] = asked["para"]
    if kind not in asked:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    request = f"{asked[kind]} Answer with the new text only.\nText: {quoted(source.text)}"
    return (("user", request),)


def second_turn(source: Source, answer: str, what: str = "sentiment") -> Messages:
    """The whole conversation of "para_conv" up to its second request."""
    again = (
        f"Write another paraphrase of the same text. Change more of its words, but keep its {what}."
        " Answer with the new text only."
    )
    return (*first_turn(source, "para", what), ("assistant", answer), ("user", again))


def quoted(text: str) -> str:
    """A text as one quoted line, so that nothing in it looks like an instruction of its own."""
    return '"' + " ".join(text.split()).replace('"', "'") + '"'


def one_line(text: str) -> str:
    """An answer as a text: line ends become blanks, one pair of enclosing quotes goes."""
    line = " ".join(text.split())
    if len(line) > 1 and line[0] == line[-1] == '"':
        line = line[1:-1].strip()
    return line
