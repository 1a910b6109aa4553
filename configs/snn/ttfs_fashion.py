# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST, fully connected 784-1600-10, trained as a B1 TTFS network.

python -m snn.train --config=configs/snn/ttfs_fashion.py --workdir=runs/ttfs_fashion

Uses the complete set of the Debian package dataset-fashion-mnist where it is installed.
"""

from ml_collections import ConfigDict

from configs.snn.ttfs_shared import image_config


def get_config() -> ConfigDict:
    return image_config(
        "ttfs",
        "fashion_mnist",
        {"architecture": "mlp", "hidden": (1600,)},
        augment={"flip": True},
        loss={"dropout": 0.4, "activity": 1e-5},
        steps=10000,
        batch_size=250,
        learning_rate=1.5e-3,
        ema=0.999,
    )
