# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 subset: a small VGG with batch norm after the ReLU, trained as ReLU, mapped to spikes.

python -m snn.train --config=configs/snn/ttfs_cifar10.py --workdir=runs/ttfs_cifar10

For a CPU and the subset of 8 000 JPEG images; see ttfs_cifar10_vgg15.py for the full recipe.
"""

from ml_collections import ConfigDict

from configs.snn.ttfs_shared import image_config


def get_config() -> ConfigDict:
    config = image_config(
        "ttfs_relu",
        "cifar10",
        {
            "architecture": "vgg",
            "channels": ((16,), (32,), (64,)),
            "hidden": (128,),
            "batch_norm": "after",
        },
        validation=1000,
        augment={"flip": True, "shift": 2.0},
        loss={"dropout": 0.2, "activity": 1e-6, "windows": "certified"},
        steps=1400,
        batch_size=100,
        learning_rate=3e-3,
        eval_every=280,
        save_every=280,
    )
    config.optimizer.weight_decay = 1e-2
    return config
