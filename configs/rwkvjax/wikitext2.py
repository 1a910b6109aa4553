# SPDX-License-Identifier: Apache-2.0
"""A small byte-level Finch on WikiText-2, the base that the fine-tuning examples start from.

    python -m rwkvjax.train --config=configs/rwkvjax/wikitext2.py --workdir=runs/wikitext2

About five minutes on two free cores. The text is the validation part of WikiText-2 (looked for as
described in core/datasets.py), whose last 5 % are held out.
"""

from ml_collections import ConfigDict

from core.datasets import file_of
from rwkvjax.experiment import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.update(
        {
            "model": {"version": "6", "dim": 128, "layers": 4, "head_size": 32},
            "data": {
                "train": (file_of("wikitext2", "wiki.valid.tokens.gz"),),
                "heldout": (),
                "heldout_fraction": 0.05,
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
                "steps": 600,
                "batch_size": 16,
                "log_every": 50,
                "eval_every": 200,
                "save_every": 200,
                "keep": 1,
            },
            "sample": {"prompts": (" The ",), "tokens": 200},
        }
    )
    return config
