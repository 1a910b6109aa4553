# SPDX-License-Identifier: Apache-2.0
"""A small byte-level Finch on the source of Python's standard library.

python -m rwkvjax.train --config=configs/rwkvjax/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

from rwkvjax.experiment import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.update(
        {
            "model": {"version": "6", "dim": 128, "layers": 4, "head_size": 32},
            "data": {
                "train": ("stdlib:train",),
                "heldout": ("stdlib:heldout",),
                "tokenizer": "byte",
                "context": 128,
                "heldout_tokens": 32768,
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
                "log_every": 20,
                "eval_every": 100,
                "save_every": 100,
            },
            "sample": {
                "prompts": ("def ", "class ", "import "),
                "tokens": 300,
            },
        }
    )
    return config
