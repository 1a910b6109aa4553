# SPDX-License-Identifier: Apache-2.0
"""Model-based acquisition on the Unhealthy Comments Corpus: six attributes and two more.

python -m nlp.acquire --config=configs/nlp/acquire_unhealthy.py --workdir=runs/a_unhealthy

A part of it (TF-IDF, 4,000 texts) is measured in docs/acquisition.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": "unhealthy_comments",
            "limit": 0,
            "encoders": ({"kind": "tfidf", "features": 2048}, {"kind": "sentence"}),
            "heads": {"epochs": 40},
            "theta": 0.15,
            "thetas": (0.1, 0.15, 0.2, 0.25),
            "folds": 10,
            "reproduce": ("softmax_multihot", "min_mode", "single_task_softmax"),
        }
    )
