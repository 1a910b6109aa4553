# SPDX-License-Identifier: Apache-2.0
"""Model-based acquisition on ConvAbuse: 13 tasks in a hierarchy, 8 annotators.

python -m nlp.acquire --config=configs/nlp/acquire_convabuse.py --workdir=runs/a_convabuse

Results: docs/acquisition.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": "convabuse",
            "limit": 0,
            "encoders": ({"kind": "tfidf", "features": 2048}, {"kind": "sentence"}),
            "heads": {"epochs": 40},
            "theta": 0.15,
            "thetas": (0.1, 0.15, 0.2, 0.25),
            "folds": 10,
            "reproduce": ("softmax_multihot", "min_mode", "single_task_softmax"),
            "simulation": {"start": 100, "step": 100, "rounds": 10, "seeds": 5},
            "simulation_tasks": ("abusive",),
        }
    )
