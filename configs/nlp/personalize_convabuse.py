# SPDX-License-Identifier: Apache-2.0
"""Personalised classifiers on ConvAbuse (8 annotators): five seeds, text folds.

python -m nlp.personalize --config=configs/nlp/personalize_convabuse.py --workdir=runs/p_convabuse

Results and times: docs/personalization.md.
"""

from ml_collections import ConfigDict

from nlp.personalization import models


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": "convabuse",
            "tasks": ("abusive",),
            "split": "texts",
            "folds": 5,
            "seeds": 5,
            "train_limit": 0,
            "test_limit": 0,
            "models": models.MODELS,
            "encoders": (
                {"kind": "tfidf"},
                {"kind": "hashing", "features": 2048},
                {"kind": "sentence"},
            ),
            "fit": {"epochs": 20, "learning_rate": 0.008},
        }
    )
