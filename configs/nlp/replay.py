# SPDX-License-Identifier: Apache-2.0
"""Stored answers: scores them without asking anybody.

python -m nlp.evaluate --config=configs/nlp/replay.py:answers.jsonl --workdir=runs/replay \
    --config.tasks="('spam',)"

A sheet of a workbook in the study's layout is named "answers.xlsx!SHEET", in quotes for the shell.
"""

from ml_collections import ConfigDict


def get_config(answers: str = "answers.jsonl") -> ConfigDict:
    return ConfigDict(
        {
            "tasks": ("spam",),
            "limit": 0,
            "policy": "strict",
            "resamples": 1000,
            "models": ({"name": "stored", "backend": "replay", "path": answers},),
        }
    )
