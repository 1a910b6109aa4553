# SPDX-License-Identifier: Apache-2.0
"""The sizes of arXiv 2110.02743's baseline: 6 layers of 640 units each way, 768, joint of 256.

    python -m snn.train --config=configs/snn/asr_paper.py:lstm --workdir=runs/asr_lstm \\
        --config.data.train=train.jsonl --config.data.valid=dev.jsonl --config.data.test=test.jsonl

The argument is CELL: lstm (57 M parameters with 340 inputs and 46 labels), ssnu (15 M),
threshold_ssnu, output_ssnu (29 M). The manifests are yours (docs/speech.md has the format); sizes
like these need an accelerator and some hundred hours of speech. The 100 numbers that the paper
appends to each frame for the speaker (i-vectors) are left out.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "lstm") -> ConfigDict:
    snu = arg.endswith("snu")
    units = {"cell": (arg,), "recurrent": True, "train_decay": snu}
    if snu:
        units["decay_range"] = (0.3, 0.95)
    return ConfigDict(
        {
            "task": "transducer",
            "data": {
                "train": "manifests/train.jsonl",
                "valid": "manifests/valid.jsonl",
                "test": "",
                "tokens": "characters",
                "buckets": 8,
                "skip_bad": False,
            },
            "features": {
                "rate": 8000,
                "bands": 40,
                "normalise": "utterance",
                "deltas": 2,
                "stack": 2,
                "skip": 2,
            },
            "augment": {
                "speeds": (0.9, 1.0, 1.1),
                "noise_snr_db": (5.0, 30.0),
                "frequency_masks": 2,
                "frequency_width": 10,
                "time_masks": 2,
                "time_width": 40,
            },
            "model": {
                "encoder": {**units, "hidden": (640,) * 6},
                "prediction": {**units, "hidden": (768,)},
                "bidirectional": True,
                "label_size": 10,
                "joint": "multiplicative",
                "joint_size": 256,
            },
            "loss": {"dropout": 0.1, "block": 4},
            "optimizer": {
                "learning_rate": 5e-4,
                "final_learning_rate": 1e-6,
                "warmup_steps": 10_000,
                "weight_decay": 1e-2,
            },
            "train": {
                "steps": 100_000,
                "batch_size": 64,
                "log_every": 100,
                "eval_every": 5_000,
                "save_every": 5_000,
                "best_metric": "eval/label_errors",
            },
        }
    )
