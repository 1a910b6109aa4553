# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's digits, 64-128-64-10 as a B1 TTFS network: seconds on a CPU, no download.

python -m snn.train --config=configs/snn/ttfs_digits.py --workdir=runs/ttfs_digits
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "ttfs",
            "model": {
                "architecture": "mlp",
                "hidden": (128, 64),
                "classes": 10,
                "rule": "b1",
                "init": "he",
            },
            "data": {"name": "digits", "eval_batch_size": 360},
            "loss": {"activity": 1e-3},
            "optimizer": {
                "learning_rate": 2e-3,
                "final_learning_rate": 1e-5,
                "warmup_steps": 50,
                "beta2": 0.999,
            },
            "train": {"steps": 2000, "batch_size": 32, "log_every": 200, "keep": 1},
        }
    )
