# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10, VGG-15 with batch norm after the ReLU, after arXiv 2212.12522 (93.6 % there).

python -m snn.train --config=configs/snn/ttfs_cifar10_vgg15.py --workdir=runs/ttfs_cifar10_vgg15

For a GPU and the complete set (data_batch_1.bin ... test_batch.bin in the data folder): SGD with
Nesterov momentum, rate 0.1 halved every 20 epochs, 250 epochs of 351 steps; dropout of 0.3 and 0.4
between the convolutions of a block, 0.5 before the dense layers. On a CPU it has been run for a few
steps only.
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
                "conv_dropout": (0.3, 0.4, 0.4, 0.4, 0.4),
            },
            "data": {
                "name": "cifar10",
                "validation": 5000,
                "train_examples": 0,
                "test_examples": 0,
                "certify_examples": 100,
                "augment": {"flip": True, "shift": 3.2, "rotate": 15.0},
            },
            "loss": {"dropout": 0.5, "activity": 1e-6, "windows": "certified"},
            "sgd": {
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 5e-4,
                "halve_every": 7020,
            },
            "train": {
                "seed": 0,
                "steps": 87750,
                "batch_size": 128,
                "log_every": 100,
                "eval_every": 3510,
                "save_every": 3510,
                "keep": 1,
                "best_metric": "eval/accuracy",
                "best_mode": "max",
            },
        }
    )
