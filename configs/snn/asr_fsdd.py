# SPDX-License-Identifier: Apache-2.0
"""Connected digits (1 to 3 of a string) of the Free Spoken Digit Dataset; an unseen test speaker.

    python -m snn.train --config=configs/snn/asr_fsdd.py:lstm --workdir=runs/asr_fsdd_lstm
    python -m snn.train --config=configs/snn/asr_fsdd.py:output_ssnu,92 --workdir=runs/asr_fsdd_o

The argument is CELL[,ENCODER WIDTH]: the unit of the encoder and the prediction network, and the
units of each of the two encoder layers. docs/speech.md has the results.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.snn import asr_shared


def get_config(arg: str = "output_ssnu,92") -> ConfigDict:
    cell, width = (*arg.split(","), "96")[:2]
    units = asr_shared.units(cell)
    # The results in docs/speech.md were made with faster membranes here than in the encoder.
    prediction: dict[str, Any] = {"threshold": 0.5}
    if "decay_range" in units:
        prediction["decay_range"] = (0.3, 0.95)
    return ConfigDict(
        {
            "task": "transducer",
            "data": {
                "corpus": "fsdd",
                "options": {"longest": 3, "train": 3000, "test": 300, "test_speaker": "theo"},
                "tokens": "words",
                "buckets": 2,
                **asr_shared.manifests(),
                "eval_batch_size": 50,
            },
            "features": {
                "rate": 8000,
                "bands": 40,
                "normalise": "running",
                "prior_mean": 14.0,
                "prior_frames": 10,
                "deltas": 1,
                "stack": 4,
                "skip": 4,
            },
            "augment": {
                "speeds": (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25),
                "noise_snr_db": (5.0, 30.0),
                "gain_db": 30.0,
                "warp": (),
                "channel_db": 10.0,
                "frequency_masks": 2,
                "frequency_width": 8,
                "time_masks": 2,
                "time_width": 15,
            },
            "model": {
                "encoder": {**units, "hidden": (int(width), int(width))},
                "prediction": {**units, **prediction, "hidden": (32,)},
                "joint": "additive",
                "joint_size": 64,
                "ctc": True,
                "gain": asr_shared.gain(cell),
            },
            "loss": {"dropout": 0.1, "ctc": 0.5},
            "optimizer": {
                "learning_rate": asr_shared.learning_rate(cell),
                "final_learning_rate": 1e-5,
                "warmup_steps": 100,
                "beta2": 0.98,
                "weight_decay": 1e-4,
                "clip_norm": 1.0,
            },
            "train": {
                # Units whose threshold is driven learn more slowly still.
                "steps": 5000 if cell.startswith("threshold") else 2500,
                "batch_size": 32,
                "seed": 0,
                "log_every": 100,
                "eval_every": 500,
                "keep": 1,
                "best_metric": "eval/label_errors",
            },
        }
    )
