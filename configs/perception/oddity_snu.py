# SPDX-License-Identifier: Apache-2.0
"""The visual oddity task: six frames, one of them odd, by the saccadic network or OReN.

    python -m perception.train --config=configs/perception/oddity_snu.py --workdir=runs/oddity_snu
    ... oddity_snu.py:riddle=topology,network=oren,seed=1
    ... oddity_snu.py:riddle=41+44,network=lstm,steps=500
    ... oddity_snu.py:network=snu_feedforward,learning=ostl
    ... oddity_snu.py:without=topology                (tested on the family that was held out)
    ... oddity_snu.py:size=published                  (100 pixels, 72,000 riddles; an accelerator)

network: snu, ssnu, snu_feedforward, lstm, gru, rwkv (readers of saccades) or oren. eye: cnn or
glimpses. riddle: a
number, several joined by "+", a family of `perception.data.oddity` or all. objective: binary (the
decision neuron), softmax, or auto (binary for the saccadic network, softmax for OReN). initial:
saccades before the evaluation. resolution: pixels of a frame's side. learning: bptt or
ostl. Results: docs/oddity.md.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from configs.perception.arguments import parse, save_every
from perception.tasks.oddity_setup import DataConfig, ModelConfig

DEFAULTS = {
    "network": "snu", "eye": "cnn", "riddle": "all", "without": "", "size": "small",
    "objective": "auto", "initial": 6, "train": 0, "steps": 0, "batch": 32, "seed": 0,
    "resolution": 0, "learning": "bptt",
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    own = parse(arg, DEFAULTS)
    published = own["size"] == "published"
    single = own["riddle"].isdigit()
    train = own["train"] or ((2_560 if single else 72_000) if published else 8_000)
    steps = own["steps"] or ((100 if published else 8) * train // own["batch"])
    every = max(1, steps // 20)
    data = dataclasses.asdict(DataConfig(own["riddle"], own["without"], train))
    if published:
        held_out = 640 if single else 18_000
        data.update(validation=held_out, test=held_out)
    data["resolution"] = own["resolution"] or (100 if published else 48)
    model = dataclasses.asdict(ModelConfig(own["network"], own["eye"], initial=own["initial"]))
    if not published:
        model.update(channels=(16, 32, 32, 32))
    relational = own["network"] == "oren"
    objective = "softmax" if relational else "binary"
    # At 1e-3 some seeds of OReN fall back to equal scores for all frames and stay there.
    learning_rate = 3e-4 if relational else 1e-3
    return ConfigDict(
        {
            "task": "oddity",
            "objective": objective if own["objective"] == "auto" else own["objective"],
            "learning": own["learning"],
            "data": data,
            "model": model,
            "optimizer": {"learning_rate": learning_rate, "warmup_steps": min(100, steps // 10)},
            "train": {
                "steps": steps,
                "batch_size": own["batch"],
                "seed": own["seed"],
                "log_every": every,
                "eval_every": every,
                "save_every": save_every(steps),
                "keep": 1,
            },
        }
    )
