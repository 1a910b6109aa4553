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
            "encoders": ({"kind": "tfidf", "features": 2048}, {"kind": "sentence"}),
            "theta": 0.15,
            "reproduce": ("softmax_multihot", "min_mode", "single_task_softmax"),
        }
    )
