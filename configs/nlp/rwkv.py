# SPDX-License-Identifier: Apache-2.0
"""A model of ours in this process: labels ranked by log-probability.

python -m nlp.evaluate --config=configs/nlp/rwkv.py:runs/quickstart --workdir=runs/rwkv
"""

from ml_collections import ConfigDict


def get_config(checkpoint: str = "runs/quickstart") -> ConfigDict:
    return ConfigDict(
        {
            "tasks": ("spam", "tweet_sent", "tweet_stance", "convabuse_per", "irony_per"),
            "policy": "strict",
            "resamples": 1000,
            "limit": 200,
            "shots": (0, 3),
            "models": ({"name": "rwkv", "backend": "rwkv", "path": checkpoint, "mode": "rank"},),
        }
    )
