# SPDX-License-Identifier: Apache-2.0
"""Prompts for personalised language models (structure of arXiv 2402.09269, wording our own).

Plain: the annotator's id on a line of its own (personalised only), examples as "text => label",
the text. Instruct: what to do, then blocks under third-level headings: user, examples and their
responses, text, the list of labels, and the heading of the response. Texts are cut at their
beginning, so that a prompt has a limited length in bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from nlp.annotations import AnnotationSet

SEPARATOR = " =>"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What goes into one prompt.

    Attributes:
      text: to be judged.
      labels: possible answers, in alphabetical order.
      user: id as plain text, "" if not personalised.
      examples: (text, label) pairs; the user's own if personalised.
    """

    text: str
    labels: tuple[str, ...]
    user: str = ""
    examples: tuple[tuple[str, str], ...] = ()

    def plain(self, limit: int) -> bytes:
        """The short form, at most `limit` bytes."""
        head = f"{self.user}\n" if self.user else ""
        frame = len(head.encode()) + sum(
            len(f"{SEPARATOR} {label}\n".encode()) for _, label in self.examples
        )
        room = _room(limit - frame - len(SEPARATOR), len(self.examples) + 1)
        shown = "".join(f"{_tail(t, room)}{SEPARATOR} {label}\n" for t, label in self.examples)
        return f"{head}{shown}{_tail(self.text, room)}{SEPARATOR}".encode()

    def instruct(self, limit: int) -> bytes:
        """The form with instructions and headings, at most `limit` bytes."""
        whom = " for the specified user" if self.user else ""
        parts = [
            f"Sort the text under the best fitting label of the list{whom}.\n"
            "The labels say how a reader sees the text. Answer with a label only.\n"
        ]
        if self.user:
            parts.append(f"### User\n{self.user}\n")
        who = "This user" if self.user else "Somebody"
        for number in range(len(self.examples)):
            parts.append(f"### Example {number + 1}\n\0{number}\n")
            parts.append(f"### Example response {number + 1}\n{who} said:"
                         f" {self.examples[number][1]}\n")  # fmt: skip
        parts.append("### Text\n\0t\n### Labels\n")
        parts.append("".join(f"- {label}\n" for label in self.labels) + "### Response\n")
        frame = "".join(parts)
        slots = {f"\0{n}": text for n, (text, _) in enumerate(self.examples)} | {"\0t": self.text}
        room = _room(limit - len(frame.encode()), len(slots))
        for slot, text in slots.items():
            frame = frame.replace(slot, _tail(text.replace("\0", " "), room))
        return frame.encode()


def _room(left: int, texts: int) -> int:
    if left < 8 * texts:
        raise ValueError(f"max_tokens leaves {left} bytes for {texts} texts; allow more")
    return left // texts


def _tail(text: str, limit: int) -> str:
    """The last `limit` bytes of a text on one line, without half a character."""
    return " ".join(text.split()).encode("utf-8", "replace")[-limit:].decode("utf-8", "ignore")


def draw_examples(
    data: AnnotationSet, pool: np.ndarray, rows: np.ndarray, shots: int, personal: bool, seed: int
) -> np.ndarray:
    """Rows of examples for every prompt, [len(rows), shots], from `pool` and of other texts.

    The examples of k shots are the first k of those of more. -1 where there is none.

    Args:
      data: annotations.
      pool: rows to draw from (of training).
      rows: annotations to make prompts for.
      shots: how many.
      personal: only the same annotator's.
      seed: of the draw.
    """
    drawn = np.full((len(rows), shots), -1)
    if not shots:
        return drawn
    rng = np.random.default_rng([seed, 7])
    order = rng.permutation(pool)
    own = {int(a): order[data.annotator[order] == a] for a in np.unique(data.annotator[rows])}
    for place, row in enumerate(rows):
        choice = own[int(data.annotator[row])] if personal else order
        if not len(choice):
            continue
        # A random start in a fixed random order: cheap, and no text twice.
        start = int(rng.integers(len(choice)))
        found = 0
        for step in range(len(choice)):
            candidate = choice[(start + step) % len(choice)]
            if data.text[candidate] != data.text[row]:
                drawn[place, found] = candidate
                found += 1
                if found == shots:
                    break
    return drawn


def build(
    data: AnnotationSet,
    rows: np.ndarray,
    examples: np.ndarray,
    labels: Sequence[str],
    personal: bool,
    instruct: bool,
    limit: int,
) -> list[bytes]:
    """Prompts for annotations `rows` with examples [len(rows), shots]; see `Prompt`."""
    made = []
    for row, own in zip(rows, examples, strict=True):
        shown = tuple((data.texts[data.text[e]], labels[data.labels[e, 0]]) for e in own if e >= 0)
        user = str(data.annotator[row]) if personal else ""
        prompt = Prompt(data.texts[data.text[row]], tuple(sorted(labels)), user, shown)
        made.append(prompt.instruct(limit) if instruct else prompt.plain(limit))
    return made
