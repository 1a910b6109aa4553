# SPDX-License-Identifier: Apache-2.0
"""Who said what about which text: data with single annotators kept apart.

data = annotations.load("convabuse")
part = annotations.text_folds(data, folds=5, test=0)
bias = annotations.personal_bias(data, part.train)
"""

from nlp.annotations.aggregate import TextLabels, aggregate
from nlp.annotations.loaders import load, load_table, load_text_labels
from nlp.annotations.schema import (
    MISSING,
    AnnotationSet,
    DataError,
    Task,
    build,
    merge_duplicates,
    pseudonyms,
)
from nlp.annotations.splits import Split, assigned_split, text_folds, user_folds
from nlp.annotations.statistics import (
    agreement,
    conformity,
    controversy,
    most_controversial,
    personal_bias,
)

__all__ = [
    "MISSING",
    "AnnotationSet",
    "DataError",
    "Split",
    "Task",
    "TextLabels",
    "aggregate",
    "agreement",
    "assigned_split",
    "build",
    "conformity",
    "controversy",
    "load",
    "load_table",
    "load_text_labels",
    "merge_duplicates",
    "most_controversial",
    "personal_bias",
    "pseudonyms",
    "text_folds",
    "user_folds",
]
