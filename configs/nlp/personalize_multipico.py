# SPDX-License-Identifier: Apache-2.0
"""Personalised classifiers on MultiPICo (506 annotators, 9 languages): five seeds, text folds.

python -m nlp.personalize --config=configs/nlp/personalize_multipico.py --workdir=runs/p_multipico

Results over TF-IDF: docs/personalization.md (over the sentence encoder none are kept there).
"""

from ml_collections import ConfigDict

from nlp.personalization import models


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": "multipico",
            "split": "texts",
            "folds": 5,
            "seeds": 5,
            "train_limit": 0,
            "test_limit": 0,
            "models": models.MODELS,
            "encoders": (
                {"kind": "tfidf", "analyzer": "char_wb", "ngrams": (2, 4), "features": 1024},
                {"kind": "sentence"},
            ),
            "fit": {"epochs": 20, "learning_rate": 0.008},
        }
    )
