# SPDX-License-Identifier: Apache-2.0
"""Errors of recognised labels on the device, and of words and characters through jiwer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def edit_distance(
    found: jax.Array, found_count: jax.Array, wanted: jax.Array, wanted_count: jax.Array
) -> jax.Array:
    """Fewest substitutions, deletions and insertions (Levenshtein), for `jax.jit`.

    Args:
      found: int [B, N]; found_count: int [B]. wanted: int [B, M]; wanted_count: int [B].

    Returns:
      int32 [B].
    """
    position = jnp.arange(wanted.shape[1] + 1)

    def step(row: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        label, number = item
        changed = row[:, :-1] + (wanted != label[:, None])
        best = jnp.minimum(row + 1, jnp.pad(changed, ((0, 0), (1, 0)), constant_values=1 << 30))
        # Insertions run along the row: row[j] = min over i <= j of best[i] + (j - i).
        new = jax.lax.cummin(best - position, axis=1) + position
        return jnp.where((number < found_count)[:, None], new, row), None

    start = jnp.broadcast_to(position, (len(found), len(position)))
    row, _ = jax.lax.scan(step, start, (found.T, jnp.arange(found.shape[1])))
    return jnp.take_along_axis(row, wanted_count[:, None], axis=1)[:, 0]


@dataclasses.dataclass(frozen=True)
class Score:
    """Errors over all utterances.

    Attributes:
      wer, cer: errors by words (characters) of the references.
      substitutions, deletions, insertions: of words.
      words: number of reference words.
      alignment: the utterances with errors, written above each other.
    """

    wer: float
    cer: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    alignment: str

    def summary(self) -> dict[str, Any]:
        """The numbers, for a report."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "alignment"}


def score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Word and character errors with their alignment.

    An empty reference counts its insertions (jiwer alone refuses it).

    Raises:
      ValueError: numbers of references and hypotheses differ, or no reference word at all.
    """
    try:
        import jiwer
    except ImportError as error:
        raise ImportError("word error rates need jiwer: pip install 'rwkvjax[speech]'") from error
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses")
    pairs = [(r, h) for r, h in zip(references, hypotheses, strict=True) if r.strip()]
    if not pairs:
        raise ValueError("no reference holds a word")
    inserted = [h for r, h in zip(references, hypotheses, strict=True) if not r.strip()]
    more_words = sum(len(h.split()) for h in inserted)
    spoken, heard = (list(side) for side in zip(*pairs, strict=True))
    words, characters = jiwer.process_words(spoken, heard), jiwer.process_characters(spoken, heard)
    count = words.hits + words.substitutions + words.deletions
    letters = characters.hits + characters.substitutions + characters.deletions
    wrong = words.substitutions + words.deletions + words.insertions + more_words
    wrong_letters = (
        characters.substitutions
        + characters.deletions
        + characters.insertions
        + sum(map(len, inserted))
    )
    return Score(
        wer=wrong / count,
        cer=wrong_letters / letters,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions + more_words,
        words=count,
        alignment=jiwer.visualize_alignment(words, show_measures=False, skip_correct=True),
    )
