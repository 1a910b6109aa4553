# SPDX-License-Identifier: Apache-2.0
"""Texts made from labelled texts, keeping the label: generation, filters, what they are worth.

sources = [Source("1", "a fine film", "positive"), ...]
made = generate(sources, backend, cache, Generation())     # any backend of nlp.evaluation
kept, reasons = filters.apply(made, sources, Filters())
"""

from nlp.augmentation.conversations import KINDS, Generated, Source
from nlp.augmentation.filters import Filters, apply
from nlp.augmentation.generation import Generation, generate
from nlp.augmentation.training import COMBINATIONS, Training, gains

__all__ = [
    "COMBINATIONS",
    "KINDS",
    "Filters",
    "Generated",
    "Generation",
    "Source",
    "Training",
    "apply",
    "gains",
    "generate",
]
