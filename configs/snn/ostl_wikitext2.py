# SPDX-License-Identifier: Apache-2.0
"""Language model on WikiText-2's validation part: embedding, sSNU, readout tied to the embedding.

    python -m snn.train --config=configs/snn/ostl_wikitext2.py:bptt,word --workdir=runs/words
    python -m snn.train --config=configs/snn/ostl_wikitext2.py:ostl,byte --workdir=runs/bytes_ostl

The argument is METHOD[,UNIT[,CELL[,recurrent]]], UNIT word or byte. The state (and the traces) are
carried from window to window. With "recurrent" OSTL uses its traces without H.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "ostl") -> ConfigDict:
    parts = (*arg.split(","), *("ostl", "word", "ssnu", "")[arg.count(",") + 1 :])
    method, unit, cell, kind = parts
    if unit not in ("word", "byte") or kind not in ("", "recurrent"):
        raise ValueError(f"expected METHOD[,UNIT[,CELL[,recurrent]]], got {arg!r}")
    recurrent = kind == "recurrent"
    options = {"recurrent": "without_h"} if recurrent and method == "ostl" else {}
    words = unit == "word"
    return ConfigDict(
        {
            "task": "language",
            "model": {
                "cell": (cell,),
                "hidden": (192,),
                "recurrent": recurrent,
                "decay": 0.6,
                "train_decay": True,
                "embedding": 96 if words else 64,
            },
            "data": {
                "unit": unit,
                "min_count": 2 if words else 1,
                "context": 32 if words else 64,
            },
            "loss": {"dropout": 0.3 if words else 0.0, "carry_state": True},
            "method": {"name": method, "options": options},
            "optimizer": {
                "learning_rate": 5e-3,
                "final_learning_rate": 1e-4,
                "warmup_steps": 50,
                "beta2": 0.999,
            },
            "train": {
                "steps": 510 if words else 880,
                "batch_size": 32,
                "seed": 0,
                "log_every": 20,
                "eval_every": 170 if words else 220,
                "keep": 1,
                "best_metric": "eval/nll",
            },
        }
    )
