# SPDX-License-Identifier: Apache-2.0
"""How the tokens of one sequence are drawn, as plain numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from rwkvjax.tokenizers import Tokenizer

# Tokens whose text is a part of this are not counted by the penalties (the official rule).
_UNCOUNTED = " \t0123456789"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn. The order of operations is that of the official package:

        1. add `bias`, forbid `banned` ids and ids from `vocab` on
        2. subtract presence + frequency * occurrences from every token that was drawn before
        3. p = softmax
        4. top-p: keep every token at least as likely as the one at which the descending sum of p
           reaches `top_p` (ties are kept); typical-p and min-p: see below
        5. top-k: keep at most `top_k` tokens, by p
        6. p ** (1 / temperature), normalise, draw

    All truncations look at p of step 3, before the temperature. After a draw all occurrences are
    multiplied by `decay` and that of the drawn token grows by its weight (see `token_weights`).

    Attributes:
      temperature: exponent 1 / temperature after truncation; 0 takes the most likely token.
      top_p: keep the most likely tokens whose probabilities together reach this; 1 keeps all.
      top_k: keep this many tokens; 0 keeps all.
      vocab: draw only ids below this (a model may have more rows than its tokenizer ids); 0: all.
      min_p: drop tokens less likely than this times the most likely one; 0 keeps all.
      typical_p: locally typical sampling (arXiv 2202.00666): keep the tokens whose information is
        closest to the entropy until their probabilities reach this; 1 keeps all.
      presence: penalty of every token drawn before (official `alpha_presence`).
      frequency: penalty per occurrence (official `alpha_frequency`).
      decay: what remains of an occurrence after each token (official `alpha_decay`).
      bias: (id, number added to its logit) pairs.
      banned: ids that are never drawn.
      stop: ids that end a sequence; the id itself belongs to the end, not to the text.
      official: temperature 0 means temperature 1 with top_p 0, as in the official package, so that
        exact ties for the most likely token are drawn by chance; otherwise the first of them is
        taken. The other oddity is not taken over: there, top_p 1 often acts like top_p 0, because
        a float32 sum over a large vocabulary need not reach 1 (10 of 20 recorded distributions
        over 65536 tokens). Here 1 keeps all; only `oracle` with `official` follows that rounding.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    vocab: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    decay: float = 0.996
    bias: tuple[tuple[int, float], ...] = ()
    banned: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    official: bool = False

    def __post_init__(self) -> None:
        _between("temperature", self.temperature, 0, math.inf)
        for name in ("top_p", "typical_p", "min_p", "decay"):
            _between(name, getattr(self, name), 0, 1)
        if min(self.top_k, self.vocab) < 0:
            raise ValueError(f"top_k and vocab must not be negative: {self.top_k=} {self.vocab=}")
        for number in (self.presence, self.frequency, *(value for _, value in self.bias)):
            if math.isnan(number) or number == math.inf:
                raise ValueError(f"penalties and biases must be numbers below infinity: {number}")
        ids = [*self.banned, *self.stop, *(token for token, _ in self.bias)]
        if min(ids, default=0) < 0:
            raise ValueError(f"token ids must not be negative, got {min(ids)}")

    def resolved(self) -> Sampling:
        """The same with the official meaning of temperature 0 written out."""
        if self.official and self.temperature == 0:
            return dataclasses.replace(self, temperature=1.0, top_p=0.0)
        return self


def official(**overrides: object) -> Sampling:
    """The defaults of the official package (`PIPELINE_ARGS`), oddities included."""
    start = Sampling(1.0, 0.85, 0, presence=0.2, frequency=0.2, decay=0.996, official=True)
    return dataclasses.replace(start, **overrides)  # type: ignore[arg-type]


def token_weights(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    """What one occurrence of each token counts, [V] float32.

    0 for tokens whose text is a part of " \\t0123456789" (spaces, digits, and the empty text), so
    that numbers and indentation are not penalised; 1 for all others. The official rule.
    """
    weights = np.ones(vocab_size, np.float32)
    parts = {
        _UNCOUNTED[start:stop]
        for start in range(len(_UNCOUNTED))
        for stop in range(start + 1, len(_UNCOUNTED) + 1)
    }
    for part in parts:
        ids = tokenizer.encode(part)
        if len(ids) == 1 and ids[0] < vocab_size:
            weights[ids[0]] = 0.0
    end = tokenizer.end_of_document
    if end is not None and not tokenizer.decode_bytes([end]):
        weights[end] = 0.0
    return weights


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or math.isinf(value):
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value}")
