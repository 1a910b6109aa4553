# SPDX-License-Identifier: Apache-2.0
"""Speech recognisers side by side, in one run: errors, operations, spikes, speed and latency.

    python -m benchmarks.speech --runs=runs/asr_fsdd_lstm,runs/asr_fsdd_o [--utterances=40]

Every run is read from its workdir (report.json, checkpoint, corpus/test.jsonl). The first one is
what the others are compared with. Real-time factors: "stream" feeds 20 ms at a time as a microphone
would, "whole" transcribes the whole utterance at once; recognisers take turns. A second table
compares one recurrent layer of each unit: operations by formula, and the time of a step.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import measuring
from core import params as params_lib
from snn import cells
from snn.speech import accounting, manifest
from snn.speech.recogniser import Recogniser, load
from snn.speech.utterances import load as load_sound
from snn.tasks import networks

_RUNS = flags.DEFINE_list("runs", [], "Workdirs of trained recognisers.")
_UTTERANCES = flags.DEFINE_integer("utterances", 40, "Test utterances for the timing.", 1)
_WIDTH = flags.DEFINE_integer("width", 128, "Units of the layer of the second table.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")

UNITS = (
    "lstm",
    "gru",
    "ssnu",
    "snu",
    "threshold_ssnu",
    "threshold_snu",
    "output_ssnu",
    "output_snu",
)
STEPS, ROWS = 200, 1


def report(line: dict[str, Any]) -> None:
    """Prints one JSON line and appends it to the output."""
    measuring.report(line, _OUTPUT.value)


def whole_factor(model: Recogniser, sounds: list[Any]) -> float:
    """Seconds of computation for a second of sound, whole utterances one by one."""
    for _, samples in sounds:  # compiles
        model.transcribe(samples)
    start = time.perf_counter()
    for _, samples in sounds:
        model.transcribe(samples)
    return (time.perf_counter() - start) / sum(len(s) / model.rate for _, s in sounds)


def compare_runs(paths: list[str]) -> list[dict[str, Any]]:
    """One line for each run."""
    models = {path: load(path) for path in paths}
    lines = []
    for path, model in models.items():
        stored = json.loads((Path(path) / "report.json").read_text())
        line = {"run": Path(path).name, "kind": "run"}
        keys = ("encoder", "parameters", "valid_wer", "test_wer", "test_words", "seconds")
        line |= {k: stored[k] for k in keys if k in stored}
        keys = ("multiplications_per_second", "event_multiplications_per_second")
        line |= {k: stored[k] for k in (*keys, "spikes_per_second")}
        if model.front_end.kind != "given":
            items = manifest.read(Path(path) / "corpus" / "test.jsonl")[0][: _UTTERANCES.value]
            sounds = [(item, load_sound(item, model.front_end)) for item in items]
            rounds = [accounting.latency(model, sounds) for _ in range(3)]
            for key in rounds[0]:
                line[key] = statistics.median(r[key] for r in rounds)
            line["whole_real_time_factor"] = whole_factor(model, sounds)
        lines.append(line)
        report(line)
    return lines


def layer_costs() -> list[dict[str, Any]]:
    """One recurrent layer of each unit: parameters, multiplications, time of a step."""
    width = _WIDTH.value
    cfg = networks.NetworkConfig(recurrent=True)
    programs, lines = {}, {}
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(STEPS, ROWS, width)), jnp.float32)
    for name in UNITS:
        cell = networks.CELLS[name](width, width, cfg)
        params = params_lib.init(cell.param_specs(), jax.random.key(0))
        run = jax.jit(lambda p, s, x, cell=cell: cells.unroll(cell, p, s, x)[1])
        programs[name] = (run, params, cell.init_state(ROWS))
        jax.block_until_ready(run(params, cell.init_state(ROWS), xs))
        dense, events = accounting.step_cost(cell, "graded", 1.0, 0.1)
        lines[name] = {
            "kind": "layer",
            "unit": name,
            "width": width,
            "parameters": params_lib.count(cell.param_specs()),
            "multiplications": dense,
            "event_multiplications_at_10_percent": events,
        }
    taken: dict[str, list[float]] = {name: [] for name in UNITS}
    for _ in range(15):
        for name, (run, params, state) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(params, state, xs))
            taken[name].append((time.perf_counter() - start) / STEPS)
    for name in UNITS:
        lines[name]["microseconds_per_step"] = 1e6 * statistics.median(taken[name])
        report(lines[name])
    return list(lines.values())


def show(lines: list[dict[str, Any]]) -> None:
    """Columns of numbers, each relative to the first line where that says more."""
    keys = [k for k in lines[0] if k not in ("kind",)]
    print("\n| " + " | ".join(k.replace("_", " ") for k in keys) + " |")
    print("|" + "---|" * len(keys))
    for line in lines:
        values = [line.get(k, "") for k in keys]
        text = [
            f"{v:,.4g}"
            if isinstance(v, float) and v < 100
            else f"{v:,.0f}"
            if isinstance(v, (int, float))
            else str(v)
            for v in values
        ]
        print("| " + " | ".join(text) + " |")


def main(argv: list[str]) -> None:
    """Prints JSON lines and both tables."""
    del argv
    if _RUNS.value:
        show(compare_runs(_RUNS.value))
    show(layer_costs())


if __name__ == "__main__":
    app.run(main)
