# SPDX-License-Identifier: Apache-2.0
"""MNIST, LeNet 16C5-P-32C5-P-128-10 with batch norm, mapped to spikes exactly: 99.5 %.

python -m snn.train --config=configs/snn/ttfs_mnist_lenet_bn.py --workdir=runs/ttfs_mnist_lenet_bn
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "ttfs_relu",
            "model": {
                "architecture": "lenet",
                "channels": (16, 32),
                "hidden": (128,),
                "batch_norm": "before",
            },
            "data": {
                "name": "mnist",
                "augment": {"shift": 1.0, "rotate": 8.0, "zoom": 0.08},
            },
            "loss": {
                "mean": 33.3,
                "std": 78.6,
                "low": -0.5,
                "high": 3.0,
                "dropout": 0.1,
                "activity": 1e-6,
            },
            "optimizer": {
                "learning_rate": 6e-3,
                "final_learning_rate": 1e-5,
                "warmup_steps": 150,
                "weight_decay": 1e-2,
                "beta2": 0.99,
            },
            "train": {
                "steps": 2400,
                "batch_size": 128,
                "log_every": 60,
                "eval_every": 600,
                "save_every": 300,
                "keep": 1,
            },
        }
    )
