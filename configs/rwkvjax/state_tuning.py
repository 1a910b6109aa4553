# SPDX-License-Identifier: Apache-2.0
"""State tuning of a small model on Tiny Shakespeare: only the initial state is trained.

    python -m rwkvjax.train --config=configs/rwkvjax/state_tuning.py --workdir=runs/state \\
        --config.finetune.base=runs/wikitext2

The base comes from configs/rwkvjax/wikitext2.py; any run or file of weights of version 5, 6 or 7
will do. Windows run across documents, as in the official trainer, and each starts from the state.
"""

from ml_collections import ConfigDict

from core.datasets import file_of
from rwkvjax.experiment import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.update(
        {
            "finetune": {"method": "state", "base": "runs/wikitext2"},
            "data": {
                "train": (file_of("tiny_shakespeare", "input.txt.gz"),),
                "heldout_fraction": 0.05,
                "heldout_tokens": 32768,
                "tokenizer": "byte",
                "context": 128,
                "packing": "windows",
            },
            "optimizer": {
                "learning_rate": 1.0,  # as the official trainer: nothing but the state moves
                "final_learning_rate": 0.01,
                "warmup_steps": 10,
            },
            "train": {
                "steps": 150,
                "batch_size": 16,
                "log_every": 25,
                "save_every": 50,
                "keep": 1,
            },
            "sample": {"prompts": ("ROMEO:",), "tokens": 200},
        }
    )
    return config
