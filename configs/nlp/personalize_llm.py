# SPDX-License-Identifier: Apache-2.0
"""Forms of personalising a small RWKV beside classifiers, scored on the same annotations.

python -m nlp.personalize --config=configs/nlp/personalize_llm.py:runs/base --workdir=runs/p_llm

The argument is a byte-level base; without it a small one is trained on GoEmotions first. Sizes are
for one CPU core; results and times: docs/personalization.md.
"""

from ml_collections import ConfigDict


def get_config(base: str = "") -> ConfigDict:
    return ConfigDict(
        {
            "data": "convabuse",
            "tasks": ("abusive",),
            "folds": 5,
            "seeds": 3,
            "shots": 2,
            "train_limit": 1000,
            "test_limit": 300,
            "encoders": ({"kind": "tfidf"}, {"kind": "rwkv", "path": base})
            if base
            else ({"kind": "tfidf"},),
            "fit": {"epochs": 20},
            "models": ("id_only", "baseline", "onehot", "hubi_medium"),
            "llm": {
                "base": base,
                "small": {"dim": 128, "layers": 4, "head_size": 32, "steps": 1400},
                "rank": 2,
                "alpha": 32.0,
                "learning_rate": 1e-3,
                "epochs": 2,
                "batch_size": 16,
                "max_tokens": 80,
                "variants": (
                    "Q",
                    "Q-P",
                    "CLS",
                    "CLS-P",
                    "CLS-token",
                    "CLS-state",
                    "LM",
                    "LM-P",
                    "LM-state",
                    "Q@1",
                    "Q-P@1",
                    "Q@2",
                    "Q-P@2",
                    "LM-P@1",
                    "LM-P@2",
                ),
            },
        }
    )
