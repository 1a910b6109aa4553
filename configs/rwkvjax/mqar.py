# SPDX-License-Identifier: Apache-2.0
"""Recipe of the associative-recall experiment: "VERSION,LENGTH,WIDTH", e.g. "6,64,64".

    python -m benchmarks.mqar --workdir=runs/mqar --models=4,5.2,6 --lengths=64 --dims=64

The vocabulary is smaller than the paper's 8192, so that it trains in minutes on a CPU (256 ids take
several times the steps). Heads are 32 wide, or as wide as the model.
"""

from ml_collections import ConfigDict


def get_config(argument: str = "6,64,64") -> ConfigDict:
    if argument.count(",") != 2:
        raise ValueError(f"expected VERSION,LENGTH,WIDTH, for instance 6,64,64, got {argument!r}")
    version, length, dim = argument.split(",")
    steps, rate = int(length), 3e-3
    extra = {"embedding_init": rate} if version == "4" else {}  # as its own trainer did
    return ConfigDict(
        {
            "model": {
                "version": version,
                "dim": int(dim),
                "layers": 2,
                "head_size": min(32, int(dim)),
                **extra,
            },
            "data": {"steps": steps, "pairs": steps // 8, "vocab_size": 64},
            "optimizer": {
                "learning_rate": rate,
                "final_learning_rate": 1e-4,
                "warmup_steps": 50,
                "weight_decay": 0.1,
            },
            "train": {
                "steps": 800,
                "batch_size": 32,
                "log_every": 50,
                "eval_every": 100,
            },
        }
    )
