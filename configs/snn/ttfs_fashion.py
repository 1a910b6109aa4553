# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST, 16C5-P-32C5-P-128-10 with batch norm, trained as ReLU, mapped to spikes exactly.

python -m snn.train --config=configs/snn/ttfs_fashion.py --workdir=runs/ttfs_fashion

Uses the complete set of the Debian package dataset-fashion-mnist where it is installed.
"""

from ml_collections import ConfigDict

from configs.snn.ttfs_shared import image_config


def get_config() -> ConfigDict:
    config = image_config(
        "ttfs_relu",
        "fashion_mnist",
        {
            "architecture": "lenet",
            "channels": (16, 32),
            "hidden": (128,),
            "batch_norm": "before",
        },
        augment={"flip": True},
        loss={
            "mean": 72.9,
            "std": 90.0,
            "low": -1.0,
            "high": 2.1,
            "dropout": 0.2,
            "activity": 2e-5,
        },
        steps=4000,
        batch_size=128,
        learning_rate=5e-3,
        eval_every=500,
        save_every=1000,
        ema=0.995,
    )
    config.optimizer.weight_decay = 1e-2
    return config
