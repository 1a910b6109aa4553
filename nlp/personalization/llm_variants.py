# SPDX-License-Identifier: Apache-2.0
"""Forms of personalising a language model (arXiv 2402.09269), and their settings.

A variant is written METHOD[-PERSON][@SHOTS], for instance "LM-P@2":

  METHOD  Q    query: the model as it is ranks the labels
          CLS  a classification head on the last activation, with LoRA
          LM   the label text is generated, with LoRA; labels are ranked when predicting
  PERSON  P      the annotator's id as plain text in the prompt
          token  one new token for each annotator before the text (UserID)
          state  one learned initial state for each annotator, instead of LoRA
          (none) not personalised
  SHOTS   earlier judgements in the prompt: the annotator's own with a PERSON, else anybody's
"""

from __future__ import annotations

import dataclasses
import re

from nlp.small_rwkv import SmallModel

METHODS = ("Q", "CLS", "LM")
PERSONS = ("P", "token", "state")
STANDARD = (
    "Q", "Q-P", "Q@1", "Q-P@1", "Q@2", "Q-P@2", "CLS", "CLS-P", "CLS-token", "CLS-state",
    "LM", "LM-P", "LM-P@1", "LM-P@2", "LM-state",
)  # fmt: skip
_NAME = re.compile(rf"({'|'.join(METHODS)})(?:-({'|'.join(PERSONS)}))?(?:@([0-9]))?")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One form; see the module."""

    method: str
    person: str = ""
    shots: int = 0

    @property
    def name(self) -> str:
        """As written in configurations and tables."""
        return (
            self.method
            + (f"-{self.person}" if self.person else "")
            + (f"@{self.shots}" if self.shots else "")
        )

    @property
    def personal(self) -> bool:
        """Whether the annotator is known to the model."""
        return bool(self.person)


def parse(name: str) -> Variant:
    """The variant that a name stands for.

    Raises:
      ValueError: no such variant.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise ValueError(f"expected METHOD[-PERSON][@SHOTS], for instance LM-P@2, got {name!r}")
    variant = Variant(found[1], found[2] or "", int(found[3] or 0))
    if variant.method == "Q" and variant.person in ("token", "state"):
        raise ValueError(f"{name!r}: what is learned for each annotator needs training: CLS or LM")
    return variant


@dataclasses.dataclass(frozen=True)
class Llm:
    """Language models of a comparison.

    Attributes:
      base: a run of ours or released weights; "" trains `small` on the texts of `corpus`.
      corpus: data sets whose texts the small model learns; never the one that is compared.
      small: the small model.
      variants: see the module.
      rank, alpha, dropout: of LoRA on all projections (the paper: 2, 32, 0.05).
      learning_rate: of the paper, for billions of parameters, is 1e-4; small models want more.
      head_rate: factor of the rate for what starts from nothing (head, tokens, states).
      epochs, batch_size, warmup: of the fine-tuning; warm-up is a share of the steps.
      instruct: prompts with instructions and headings, see `prompts`; small models do without.
      max_tokens: of a prompt; longer texts are cut at their beginning.
    """

    base: str = ""
    corpus: tuple[str, ...] = ("goemotions",)
    small: SmallModel = SmallModel()
    variants: tuple[str, ...] = STANDARD
    rank: int = 2
    alpha: float = 32.0
    dropout: float = 0.05
    learning_rate: float = 1e-3
    head_rate: float = 5.0
    epochs: int = 2
    batch_size: int = 32
    warmup: float = 0.05
    instruct: bool = False
    max_tokens: int = 192

    def __post_init__(self) -> None:
        self.chosen()
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"expected {self.rank=} >= 1, {self.alpha=} > 0, {self.dropout=} < 1")
        if self.epochs < 1 or self.batch_size < 1 or self.max_tokens < 32:
            raise ValueError(
                f"expected at least 1: {self.epochs=} {self.batch_size=}, 32: {self.max_tokens=}"
            )
        if not self.base and not self.corpus:
            raise ValueError("give the path of a base, or the corpus of a small one")

    def chosen(self) -> list[Variant]:
        """The variants; ValueError for an unknown one."""
        return [parse(name) for name in self.variants]
