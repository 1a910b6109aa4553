# SPDX-License-Identifier: Apache-2.0
"""Augmenting 600 tweets with four emotions; the generator is a small RWKV trained on them.

python -m nlp.augment --config=configs/nlp/augment_tweeteval.py:runs/base --workdir=runs/aug

The argument is a byte-level base to start the generator from (as in personalize_llm.py). For an
endpoint: configs/nlp/augment_endpoint.py. Results and times: docs/augmentation.md.
"""

from ml_collections import ConfigDict


def get_config(base: str = "") -> ConfigDict:
    return ConfigDict(
        {
            "data": "tweeteval",
            "train": 600,
            "validation": 400,
            "test": 1200,
            "generator": "small",
            "small": {
                "base": base,
                "model": {
                    "dim": 128,
                    "layers": 4,
                    "head_size": 32,
                    "steps": 160,
                    "context": 256,
                    "learning_rate": 1e-3,
                },
            },
            "generation": {"what": "emotion"},
            "training": {
                "seeds": 5,
                "heads": {
                    "epochs": 15,
                    "batch_size": 128,
                    "stopping": "none",
                    "patience": 4,
                    "min_delta": 0.001,
                },
                "students": (
                    {"name": "small (TF-IDF, linear)"},
                    {
                        "name": "larger (character n-grams, 32 hidden units)",
                        "encoder": {
                            "kind": "tfidf",
                            "analyzer": "char_wb",
                            "ngrams": (2, 4),
                            "features": 2048,
                        },
                        "hidden": 32,
                    },
                ),
            },
        }
    )
