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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlp import acquisition, annotations, augmentation, evaluation, personalization

__all__ = ["acquisition", "annotations", "augmentation", "evaluation", "personalization"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"nlp.{name}")
    raise AttributeError(f"module 'nlp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
