# SPDX-License-Identifier: Apache-2.0
"""Model-based acquisition on GoEmotions: 28 emotions, 10,000 of the comments.

python -m nlp.acquire --config=configs/nlp/acquire_goemotions.py --workdir=runs/a_goemotions

Takes minutes; no results are kept in the documentation.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": "goemotions",
            "limit": 10000,
            "encoders": ({"kind": "tfidf", "features": 1024}, {"kind": "sentence"}),
            "heads": {"epochs": 40},
            "theta": 0.15,
            "thetas": (0.1, 0.15, 0.2, 0.25),
            "folds": 10,
        }
    )
