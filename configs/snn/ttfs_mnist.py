# SPDX-License-Identifier: Apache-2.0
"""MNIST, fully connected 784-600-10, trained as a B1 TTFS network.

python -m snn.train --config=configs/snn/ttfs_mnist.py --workdir=runs/ttfs_mnist

Fewer spikes: --config.loss.activity=5e-4. Another seed: --config.train.seed=1.
"""

from ml_collections import ConfigDict

from configs.snn.ttfs_shared import image_config


def get_config() -> ConfigDict:
    return image_config(
        "ttfs",
        "mnist",
        {"architecture": "mlp", "hidden": (600,)},
        augment={"shift": 1.0},
        loss={"dropout": 0.2, "activity": 1e-4},
        steps=8000,
        batch_size=250,
        learning_rate=1.5e-3,
        ema=0.999,
    )
