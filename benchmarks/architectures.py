# SPDX-License-Identifier: Apache-2.0
"""RWKV-4, Eagle, Finch (and Goose) trained on the same text with the same budget.

    python -m benchmarks.architectures --workdir=runs/architectures

Each run is the training program with configs/rwkvjax/compare.py; finished runs are not repeated.
Writes results.md (table), results.jsonl and curves.png into the workdir.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from configs.rwkvjax import compare
from core import cli, files, metrics, plots
from core import params as params_lib
from rwkvjax import experiment

_FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", "runs/architectures", "Where runs lie.", flag_values=_FLAGS)
flags.DEFINE_list("versions", ["4", "5.2", "6"], "Versions to train.", flag_values=_FLAGS)
flags.DEFINE_list("seeds", ["0"], "Seeds of each version.", flag_values=_FLAGS)
flags.DEFINE_integer("steps", 400, "Steps of each run.", 1, flag_values=_FLAGS)

_NAMES = {"4": "RWKV-4", "5.2": "RWKV-5.2 Eagle", "6": "RWKV-6 Finch", "7": "RWKV-7 Goose"}


def train(version: str, seed: int, steps: int, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains one model (or finds it trained) and returns its record."""
    values = compare.get_config(version)
    values.train.seed, values.train.steps = seed, steps
    cfg = experiment.build_config(values)
    trainer = experiment.make_trainer(cfg, workdir)
    done = workdir / "metrics.jsonl"
    records = metrics.read_jsonl(done) if done.exists() else []
    if not any(r["step"] == steps and "eval/loss" in r for r in records):
        trainer.run()
        records = metrics.read_jsonl(done)
    heldout = [r for r in records if "eval/loss" in r]
    return {
        "version": version,
        "seed": seed,
        "parameters": params_lib.count(trainer.specs),
        "tokens": steps * cfg.train.batch_size * cfg.data.context,
        "heldout_loss": heldout[-1]["eval/loss"],
        "bits_per_byte": heldout[-1]["eval/bits_per_byte"],
        "curve": [(r["step"], r["eval/loss"]) for r in heldout],
    }


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table: mean and spread of the held-out loss over seeds."""
    lines = [
        "| model | parameters | tokens seen | held-out loss (nats/byte) | bits per byte | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for version, group in _groups(results):
        losses = [r["heldout_loss"] for r in group]
        bits = np.mean([r["bits_per_byte"] for r in group])
        spread = f" ± {np.std(losses, ddof=1):.4f}" if len(losses) > 1 else ""
        lines.append(
            f"| {_NAMES[version]} | {group[0]['parameters']:,} | {group[0]['tokens']:,}"
            f" | {np.mean(losses):.4f}{spread} | {bits:.4f} | {len(losses)} |"
        )
    return "\n".join(lines)


def _groups(results: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for version in dict.fromkeys(r["version"] for r in results):
        yield version, [r for r in results if r["version"] == version]


def plot(results: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Held-out loss against the step, one line for each run."""
    plt = plots.pyplot()
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for color, (version, group) in enumerate(_groups(results)):
        for run in group:
            label = _NAMES[version] if run is group[0] else None
            axis.plot(*zip(*run["curve"], strict=True), "o-", color=f"C{color}", label=label)
    axis.set(xlabel="step", ylabel="held-out loss (nats per byte)")
    axis.grid(alpha=0.3)
    axis.legend()
    plots.save_figure(figure, path)


def main(values: flags.FlagValues) -> None:
    """Trains everything, then writes the results."""
    root = pathlib.Path(values.workdir)
    root.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in values.seeds:
        for version in values.versions:
            print(f"== {_NAMES[version]}, seed {seed}", file=sys.stderr)
            results.append(
                train(version, int(seed), values.steps, root / f"{version}-{seed}-{values.steps}")
            )
    with files.atomic_write(root / "results.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in results)
    files.write_text(root / "results.md", table(results) + "\n")
    plot(results, root / "curves.png")
    print(table(results))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
