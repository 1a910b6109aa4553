# SPDX-License-Identifier: Apache-2.0
"""MNIST, LeNet (16C5-P-32C5-P-128-10) trained as a B1 TTFS network on slightly distorted digits.

python -m snn.train --config=configs/snn/ttfs_mnist_lenet.py --workdir=runs/ttfs_mnist_lenet
"""

from ml_collections import ConfigDict

from configs.snn.ttfs_shared import image_config


def get_config() -> ConfigDict:
    return image_config(
        "ttfs",
        "mnist",
        {"architecture": "lenet", "channels": (16, 32), "hidden": (128,)},
        augment={"shift": 1.0, "rotate": 8.0, "zoom": 0.08},
        loss={"dropout": 0.1, "activity": 2e-5},
        steps=4000,
        batch_size=128,
        learning_rate=2e-3,
        eval_every=500,
        save_every=1000,
        ema=0.995,
    )
