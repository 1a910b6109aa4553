# SPDX-License-Identifier: Apache-2.0
"""CMU AN4 (spelled names, numbers, commands) from stored MFCC, by subwords; unseen speakers.

    python -m snn.train --config=configs/snn/asr_an4.py:lstm --workdir=runs/asr_an4_lstm
    python -m snn.train --config=configs/snn/asr_an4.py:ssnu --workdir=runs/asr_an4_ssnu

The argument is CELL[,ENCODER WIDTH]. docs/speech.md has the results.
"""

from ml_collections import ConfigDict

from configs.snn import asr_shared


def get_config(arg: str = "ssnu") -> ConfigDict:
    cell, width = (*arg.split(","), "128")[:2]
    units = asr_shared.units(cell)
    return ConfigDict(
        {
            "task": "transducer",
            "data": {
                "corpus": "an4",
                "tokens": "subwords",
                "subwords": 100,
                "buckets": 3,
                **asr_shared.manifests(),
                "eval_batch_size": 16,
            },
            "features": {
                "kind": "given",
                "coefficients": 13,
                "normalise": "utterance",
                "deltas": 2,
                "stack": 4,
                "skip": 4,
            },
            "augment": {
                "time_masks": 2,
                "time_width": 12,
                "frequency_masks": 1,
                "frequency_width": 2,
            },
            "model": {
                "encoder": {**units, "hidden": (int(width), int(width))},
                "prediction": {**units, "hidden": (48,)},
                "joint": "additive",
                "joint_size": 96,
                "ctc": True,
                "gain": asr_shared.gain(cell),
            },
            "loss": {
                "dropout": 0.2 if cell.endswith("ssnu") else 0.3,
                "ctc": 1.0,
                "max_symbols": 6,
            },
            "optimizer": {
                "learning_rate": asr_shared.learning_rate(cell) / 2,
                "final_learning_rate": 1e-5,
                "warmup_steps": 100,
                "beta2": 0.98,
                "weight_decay": 1e-3,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 2000,
                "batch_size": 16,
                "seed": 0,
                "log_every": 100,
                "eval_every": 400,
                "keep": 1,
                "best_metric": "eval/label_errors",
            },
        }
    )
