# SPDX-License-Identifier: Apache-2.0
"""RWKV-4, Eagle, Finch (and Goose, and variants) trained on the same text with the same budget.

    python -m benchmarks.architectures --workdir=runs/architectures
    python -m benchmarks.architectures --workdir=runs/ddlerp --seeds=0,1 \
        --fields=dim=64,layers=2 --models=6,6:ddlerp=decay,6:ddlerp=none,6:ddlerp=none:ffn_dim=384

Each run is the training program with configs/rwkvjax/compare.py; finished runs are not repeated.
The second line is the ablation of the data-dependent token shift; its last model has as many
parameters as the first, in the channel mixing. Writes results.md (table), results.jsonl and
results.png (held-out loss against the step) into the workdir.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from absl import flags

from benchmarks import training
from configs.rwkvjax import compare
from core import cli, plots
from core import params as params_lib
from rwkvjax import experiment

_FLAGS = flags.FlagValues()
training.define_flags(_FLAGS, "runs/architectures")
flags.DEFINE_list("fields", [], "Fields of all models, field=value.", flag_values=_FLAGS)


def train(
    model: str, fields: list[str], seed: int, steps: int, root: pathlib.Path
) -> training.Result:
    """Trains one model (or finds it trained) and returns its record."""
    name = ":".join([model, *fields])
    version, changes = training.parse(name)
    values = compare.get_config(version)
    values.model.update(changes)
    values.train.seed, values.train.steps = seed, steps or values.train.steps
    cfg = experiment.build_config(values)
    trainer = experiment.make_trainer(cfg, root / f"{name}-{seed}-{cfg.train.steps}")
    heldout = training.evaluations(trainer, "eval/loss")
    return {
        "model": model,
        "seed": seed,
        "parameters": params_lib.count(trainer.specs),
        "tokens": cfg.train.steps * cfg.train.batch_size * cfg.data.context,
        "heldout_loss": heldout[-1]["eval/loss"],
        "bits_per_byte": heldout[-1]["eval/bits_per_byte"],
        "curve": [(r["step"], r["eval/loss"]) for r in heldout],
    }


def table(results: list[training.Result]) -> str:
    """A Markdown table: mean and spread of the held-out loss over seeds."""
    lines = [
        "| model | parameters | tokens seen | held-out loss (nats/byte) | bits per byte | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for model, group in training.by_model(results):
        losses = [r["heldout_loss"] for r in group]
        bits = np.mean([r["bits_per_byte"] for r in group])
        spread = f" ± {np.std(losses, ddof=1):.4f}" if len(losses) > 1 else ""
        lines.append(
            f"| {training.name_of(model)} | {group[0]['parameters']:,} | {group[0]['tokens']:,}"
            f" | {np.mean(losses):.4f}{spread} | {bits:.4f} | {len(losses)} |"
        )
    return "\n".join(lines)


def plot(results: list[training.Result]) -> Any:
    """Held-out loss against the step, one line for each run; beside it the last of them."""
    figure, (curves, ends) = plots.pyplot().subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    models = list(training.by_model(results))
    for color, (model, group) in enumerate(models):
        style: dict[str, Any] = {"color": f"C{color}", "label": training.name_of(model)}
        for run in group:
            curves.plot(*zip(*run["curve"], strict=True), "o-", **style)
            ends.plot(run["heldout_loss"], -color, "o", **style)
            style["label"] = None
    curves.set(xlabel="step", ylabel="held-out loss (nats per byte)")
    curves.legend()
    ends.set(xlabel="held-out loss at the end (nats per byte)", ylim=(0.5 - len(models), 0.5))
    ends.set_yticks([])
    for axis in (curves, ends):
        axis.grid(alpha=0.3)
    return figure


def main(values: flags.FlagValues) -> None:
    """Trains everything, then writes the results."""
    root = pathlib.Path(values.workdir)
    results = [
        train(model, values.fields, int(seed), values.steps, root)
        for seed in values.seeds
        for model in values.models
    ]
    training.write(root, results, table, plot)


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
