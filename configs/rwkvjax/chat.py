# SPDX-License-Identifier: Apache-2.0
"""Supervised training on conversations: only the assistant's answers are predicted.

    python -m rwkvjax.train --config=configs/rwkvjax/chat.py --workdir=runs/chat \\
        --config.finetune.base=runs/wikitext2 --config.data.train='("train.jsonl",)' \\
        --config.data.heldout='("heldout.jsonl",)'

The argument is the method: state (default), lora, pissa or full. The form of the JSONL files is
described in rwkvjax/data/conversations.py; `python -m benchmarks.finetune` makes some of a
pronouncing dictionary.
"""

from ml_collections import ConfigDict

from rwkvjax.experiment import default_config


def get_config(method: str = "state") -> ConfigDict:
    config = default_config()
    config.update(
        {
            "finetune": {"method": method, "base": "runs/wikitext2", "rank": 16, "alpha": 32.0},
            "data": {
                "train": ("train.jsonl",),
                "heldout": ("heldout.jsonl",),
                "format": "chat",
                "tokenizer": "byte",
                "context": 256,
                "too_long": "skip",
                # A tuned state holds at the start of a window: one conversation in each.
                "packing": "none" if method == "state" else "best_fit",
            },
            "optimizer": {
                "learning_rate": {"state": 1.0, "full": 1e-3}.get(method, 5e-3),
                "final_learning_rate": 0.01 if method == "state" else 1e-4,
                "warmup_steps": 10,
            },
            "train": {
                "steps": 150,
                "batch_size": 16,
                "log_every": 25,
                "save_every": 50,
                "keep": 1,
            },
            "sample": {"prompts": ("User: Hi, how are you?\n\nAssistant:",), "tokens": 40},
        }
    )
    return config
