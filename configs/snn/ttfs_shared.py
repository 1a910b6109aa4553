# SPDX-License-Identifier: Apache-2.0
"""What the image configurations of this folder share; not a configuration itself."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


def image_config(
    task: str,
    data: str,
    model: Mapping[str, Any],
    *,
    loss: Mapping[str, Any],
    steps: int,
    batch_size: int,
    learning_rate: float,
    validation: int = 5000,
    augment: Mapping[str, Any] | None = None,
    **train: Any,
) -> ConfigDict:
    """Adam with a short warm-up and a cosine down to 1e-5.

    The parameters with the lowest cross-entropy on held-out training images are kept (it is less
    noisy than the accuracy).

    Args:
      task: "ttfs" (spiking from the start) or "ttfs_relu" (ReLU with batch norm, mapped).
      data: name of the data set.
      model, loss, augment: blocks of the configuration.
      steps, batch_size, learning_rate: of the training.
      validation: training images held out at the end of the set.
      **train: further keys of the block `train`.
    """
    return ConfigDict(
        {
            "task": task,
            "model": {"classes": 10, **model},
            "data": {
                "name": data,
                "validation": validation,
                "train_on_validation": False,
                "train_examples": 0,
                "test_examples": 0,
                "certify_examples": 1000,
                "augment": dict(augment or {}),
            },
            "loss": dict(loss),
            "optimizer": {
                "learning_rate": learning_rate,
                "final_learning_rate": 1e-5,
                "warmup_steps": 100,
                "beta2": 0.999,
            },
            "train": {
                "seed": 0,
                "steps": steps,
                "batch_size": batch_size,
                "log_every": 100,
                "eval_every": 1000,
                "save_every": 2000,
                "keep": 1,
                "best_metric": "eval/cross_entropy",
                "best_mode": "min",
                **train,
            },
        }
    )
