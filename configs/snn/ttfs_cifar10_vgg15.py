# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10, VGG-15 with batch norm after the ReLU, after arXiv 2212.12522 (93.6 % there).

python -m snn.train --config=configs/snn/ttfs_cifar10_vgg15.py --workdir=runs/ttfs_cifar10_vgg15

For a GPU and the complete set (data_batch_1.bin ... test_batch.bin in the data folder): SGD with
Nesterov momentum, rate 0.1 halved every 20 epochs, 250 epochs of 390 steps. The published recipe
has dropout of 0.3 and 0.4 between its convolutions as well; here it is before the read-out only.
Not run by us.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "ttfs_relu",
            "model": {
                "architecture": "vgg",
                "channels": (
                    (64, 64),
                    (128, 128),
                    (256, 256, 256),
                    (512, 512, 512),
                    (512, 512, 512),
                ),
                "hidden": (512,),
                "batch_norm": "after",
            },
            "data": {
                "name": "cifar10",
                "augment": {"flip": True, "shift": 3.2, "rotate": 15.0},
            },
            "loss": {"dropout": 0.5, "activity": 1e-6},
            "sgd": {
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 5e-4,
                "halve_every": 7800,
            },
            "train": {
                "steps": 97500,
                "batch_size": 128,
                "log_every": 100,
                "eval_every": 3900,
                "save_every": 3900,
                "keep": 1,
            },
        }
    )
