# SPDX-License-Identifier: Apache-2.0
"""LoRA, PiSSA or full training of a small model on Tiny Shakespeare.

    python -m rwkvjax.train --config=configs/rwkvjax/lora.py --workdir=runs/lora \\
        --config.finetune.base=runs/wikitext2

The argument is the method: `configs/rwkvjax/lora.py:pissa`, or `:full`. The base comes from
configs/rwkvjax/wikitext2.py; any run or file of weights will do. The text is looked for as
described in core/datasets.py; its last 5 % are held out.
"""

from ml_collections import ConfigDict

from core.datasets import file_of
from rwkvjax.experiment import default_config


def get_config(method: str = "lora") -> ConfigDict:
    config = default_config()
    config.update(
        {
            "finetune": {"method": method, "base": "runs/wikitext2", "rank": 16, "alpha": 32.0},
            "data": {
                "train": (file_of("tiny_shakespeare", "input.txt.gz"),),
                "heldout_fraction": 0.05,
                "heldout_tokens": 32768,
                "tokenizer": "byte",
                "context": 128,
            },
            "optimizer": {
                # Few parameters bear (and need) larger steps than all of them.
                "learning_rate": 1e-3 if method == "full" else 5e-3,
                "final_learning_rate": 1e-4,
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
