# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 subset: a small VGG with batch norm after the ReLU, trained as ReLU, mapped to spikes.

python -m snn.train --config=configs/snn/ttfs_cifar10.py --workdir=runs/ttfs_cifar10

For a CPU and the subset of 8 000 JPEG images; see ttfs_cifar10_vgg15.py for the full recipe.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "ttfs_relu",
            "model": {
                "architecture": "vgg",
                "channels": ((16,), (32,), (64,)),
                "hidden": (128,),
                "batch_norm": "after",
            },
            "data": {"name": "cifar10", "augment": {"flip": True, "shift": 2.0}},
            "loss": {"dropout": 0.2, "activity": 1e-6},
            "optimizer": {
                "learning_rate": 3e-3,
                "final_learning_rate": 1e-5,
                "warmup_steps": 50,
                "weight_decay": 1e-2,
                "beta2": 0.999,
            },
            "train": {
                "steps": 560,
                "batch_size": 100,
                "log_every": 40,
                "eval_every": 280,
                "save_every": 240,
                "keep": 1,
            },
        }
    )
