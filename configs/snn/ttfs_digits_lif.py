# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's digits, 64-128-10, LIF neurons with learnable synaptic delays, causal training.

python -m snn.train --config=configs/snn/ttfs_digits_lif.py --workdir=runs/ttfs_digits_lif

Other kernels: --config.model.kernel=exponential (lif1, ramp); no delays: --config.model.delay="".
"""

from ml_collections import ConfigDict

from configs.snn.ttfs_shared import image_config


def get_config() -> ConfigDict:
    return image_config(
        "ttfs",
        "digits",
        {
            "architecture": "mlp",
            "hidden": (128,),
            "rule": "autonomous",
            "kernel": "lif2",
            "tau": 0.5,
            "threshold": 1.0,
            "delay": "synaptic",
        },
        validation=200,
        loss={"semantics": "causal", "window": 1.0, "activity": 0.0},
        steps=400,
        batch_size=64,
        learning_rate=5e-3,
        eval_every=100,
        best_metric="",
    )
