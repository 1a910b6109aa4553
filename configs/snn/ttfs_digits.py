# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's digits, 64-128-64-10 as a B1 TTFS network: seconds on a CPU, no download.

python -m snn.train --config=configs/snn/ttfs_digits.py --workdir=runs/ttfs_digits
"""

from ml_collections import ConfigDict

from configs.snn.ttfs_shared import image_config


def get_config() -> ConfigDict:
    return image_config(
        "ttfs",
        "digits",
        {"architecture": "mlp", "hidden": (128, 64), "rule": "b1", "init": "he"},
        validation=200,
        loss={"activity": 2e-3},
        steps=2000,
        batch_size=32,
        learning_rate=2e-3,
        eval_every=500,
        best_metric="",
    )
