# SPDX-License-Identifier: Apache-2.0
"""Subjective and personalised language processing.

    annotations       data with single annotators kept apart, splits, statistics
    personalization   models that know who judges
    acquisition       which questions to put to annotators
    augmentation      texts made from labelled texts, and what they are worth
    evaluation        language models measured on 25 tasks

Programs: `python -m nlp.personalize`, `nlp.acquire`, `nlp.augment`, `nlp.evaluate`, each with
`--help`. Packages are imported at first use.
"""

from typing import TYPE_CHECKING

from core import lazy

if TYPE_CHECKING:
    from nlp import acquisition, annotations, augmentation, evaluation, personalization

__all__ = ["acquisition", "annotations", "augmentation", "evaluation", "personalization"]

__getattr__, __dir__ = lazy.attributes(__name__, __all__)
