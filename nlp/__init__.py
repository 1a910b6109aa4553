# SPDX-License-Identifier: Apache-2.0
"""Subjective and personalised language processing.

    annotations       data with single annotators kept apart, splits, statistics
    personalization   models that know who judges
    acquisition       which questions to put to annotators
    augmentation      texts made from labelled texts, and what they are worth
    evaluation        language models measured on 25 tasks

Programs: `python -m nlp.personalize`, `nlp.acquire`, `nlp.augment`, `nlp.evaluate`, each with
`--help`.
"""

__all__ = ["acquisition", "annotations", "augmentation", "evaluation", "personalization"]
