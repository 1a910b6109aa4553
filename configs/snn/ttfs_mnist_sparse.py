# SPDX-License-Identifier: Apache-2.0
"""MNIST 784-600-10 with a strong penalty on spikes: 98.5 % at 0.10 spikes/neuron.

python -m snn.train --config=configs/snn/ttfs_mnist_sparse.py --workdir=runs/ttfs_mnist_sparse
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "ttfs",
            "model": {"architecture": "mlp", "hidden": (600,), "classes": 10},
            "data": {"name": "mnist"},
            "loss": {"dropout": 0.2, "activity": 5e-4},
            "optimizer": {
                "learning_rate": 1.5e-3,
                "final_learning_rate": 1e-5,
                "warmup_steps": 100,
                "beta2": 0.999,
            },
            "train": {
                "steps": 6000,
                "batch_size": 250,
                "log_every": 60,
                "eval_every": 600,
                "save_every": 2000,
                "keep": 1,
            },
        }
    )
