# SPDX-License-Identifier: Apache-2.0
"""One architecture of the comparison RWKV-4 / Eagle / Finch on Tiny Shakespeare, equal budget.

    python -m rwkvjax.train --config=configs/rwkvjax/compare.py:6 --workdir=runs/compare-6

The argument is the version: 4, 5.2, 6 or 7. All of them and the table: benchmarks/architectures.py.
The text is looked for as described in core/datasets.py, or given with --config.data.train.
"""

from ml_collections import ConfigDict

from core.datasets import file_of
from rwkvjax.experiment import default_config


def get_config(version: str = "6") -> ConfigDict:
    config = default_config()
    config.update(
        {
            "model": {"version": version, "dim": 128, "layers": 4, "head_size": 32},
            "data": {
                "train": (file_of("tiny_shakespeare", "input.txt.gz"),),
                "heldout": (),
                "heldout_fraction": 0.1,
                "heldout_tokens": 0,
                "tokenizer": "byte",
                "context": 128,
            },
            "optimizer": {
                "learning_rate": 3e-3,
                "final_learning_rate": 1e-4,
                "warmup_steps": 20,
                "weight_decay": 0.01,
            },
            "train": {
                "steps": 400,
                "batch_size": 16,
                "seed": 0,
                "log_every": 25,
                "eval_every": 100,
                "save_every": 250,
            },
            "sample": {"prompts": ("ROMEO:",), "tokens": 300},
        }
    )
    return config
