# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST, fully connected 784-800-10, trained as a B1 TTFS network: 90.0 %.

python -m snn.train --config=configs/snn/ttfs_fashion.py --workdir=runs/ttfs_fashion

Uses the complete set of the Debian package dataset-fashion-mnist where it is installed.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "ttfs",
            "model": {"architecture": "mlp", "hidden": (800,), "classes": 10},
            "data": {"name": "fashion_mnist"},
            "loss": {"dropout": 0.25, "activity": 1e-5},
            "optimizer": {
                "learning_rate": 1.5e-3,
                "final_learning_rate": 1e-5,
                "warmup_steps": 100,
                "beta2": 0.999,
            },
            "train": {
                "steps": 4800,
                "batch_size": 300,
                "ema": 0.999,
                "log_every": 60,
                "eval_every": 1600,
                "save_every": 2400,
                "keep": 1,
            },
        }
    )
