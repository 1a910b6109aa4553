# SPDX-License-Identifier: Apache-2.0
"""MNIST, LeNet 16C5-P-32C5-P-128-10 with batch norm, trained as ReLU, mapped to spikes exactly.

python -m snn.train --config=configs/snn/ttfs_mnist_lenet_bn.py --workdir=runs/ttfs_mnist_lenet_bn
"""

from ml_collections import ConfigDict

from configs.snn.ttfs_shared import image_config


def get_config() -> ConfigDict:
    config = image_config(
        "ttfs_relu",
        "mnist",
        {
            "architecture": "lenet",
            "channels": (16, 32),
            "hidden": (128,),
            "batch_norm": "before",
        },
        augment={"shift": 1.0, "rotate": 8.0, "zoom": 0.08},
        loss={
            "mean": 33.3,
            "std": 78.6,
            "low": -0.5,
            "high": 3.0,
            "dropout": 0.1,
            "activity": 1.5e-6,
        },
        steps=4500,
        batch_size=128,
        learning_rate=5e-3,
        eval_every=500,
        save_every=1000,
        ema=0.995,
    )
    config.optimizer.weight_decay = 1e-2
    return config
