# SPDX-License-Identifier: Apache-2.0
"""Associative recall (MQAR) of RWKV-4, Eagle, Finch and Goose over lengths and widths.

    python -m benchmarks.mqar --workdir=runs/mqar --lengths=64,128 --dims=32,64

One training each (configs/rwkvjax/mqar.py holds the recipe); finished ones are not repeated. Writes
results.jsonl, results.md and accuracy.png into the workdir. Pairs are an eighth of the length. The
paper's figure (arXiv 2404.05892, figure 4) has lengths 64 to 512 and widths 64 to 512 with a
vocabulary of 8192, which are reached by the flags, given time.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs.rwkvjax import mqar as recipe
from core import cli, files, metrics, optim, plots
from core import config as config_lib
from core.loop import TrainConfig, Trainer
from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.data.mqar import Recall
from rwkvjax.optim import group_fn
from rwkvjax.task import LanguageModelTask, TaskConfig

_FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", "runs/mqar", "Where runs lie.", flag_values=_FLAGS)
flags.DEFINE_list("versions", ["4", "5.2", "6"], "Versions to train.", flag_values=_FLAGS)
flags.DEFINE_list("lengths", ["64"], "Tokens of an example.", flag_values=_FLAGS)
flags.DEFINE_list("dims", ["64"], "Model widths.", flag_values=_FLAGS)
flags.DEFINE_list("seeds", ["0"], "Seeds.", flag_values=_FLAGS)
flags.DEFINE_integer("steps", 0, "Steps of each run; 0 for the recipe's.", 0, flag_values=_FLAGS)
flags.DEFINE_integer("vocab", 0, "Vocabulary; 0 for the recipe's.", 0, flag_values=_FLAGS)

_NAMES = {"4": "RWKV-4", "5.2": "RWKV-5.2 Eagle", "6": "RWKV-6 Finch", "7": "RWKV-7 Goose"}


class RecallTask(LanguageModelTask):
    """Language modelling whose evaluation counts right answers."""

    def eval_sums(self, params: Any, batch: Any) -> dict[str, jax.Array]:
        """Right and asked answers of one held-out batch."""
        tokens = batch["tokens"]
        logits, _ = model.apply(params, self.cfg, tokens[:, :-1])
        mask = batch["loss_mask"] * batch["valid"][:, None]
        right = (jnp.argmax(logits, axis=-1) == tokens[:, 1:]) * mask
        return {"right": right.sum(), "asked": mask.sum()}

    def eval_metrics(self, sums: Any) -> dict[str, float]:
        """Share of right answers."""
        return {"accuracy": sums["right"] / sums["asked"]}


def train(values: Any, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains one model (or finds it trained) and returns its record."""
    cfg = config_lib.build(Config, {**values["model"], "vocab_size": values["data"]["vocab_size"]})
    how = config_lib.build(TrainConfig, values["train"])
    source = Recall(**values["data"])
    held = Recall(**{**values["data"], "seed": source.seed + 1_000_003, "size": 1000})
    task = RecallTask(
        cfg, source.steps, TaskConfig(l2_wrap=0.0), eval_source=held, eval_batch_size=100
    )
    optimizer = config_lib.build(optim.AdamWConfig, values["optimizer"])
    tx = optim.adamw(optimizer, task.param_specs(), how.steps, group_fn(1))
    log = workdir / "metrics.jsonl"
    records = metrics.read_jsonl(log) if log.exists() else []
    if not any(r["step"] == how.steps and "eval/accuracy" in r for r in records):
        Trainer(task, tx, source, how, workdir, run_config=values).run()
        records = metrics.read_jsonl(log)
    curve = [(r["step"], r["eval/accuracy"]) for r in records if "eval/accuracy" in r]
    return {
        "version": cfg.version,
        "length": source.steps,
        "pairs": source.pairs,
        "dim": cfg.dim,
        "seed": how.seed,
        "tokens": how.steps * how.batch_size * source.steps,
        "accuracy": curve[-1][1],
        "curve": curve,
    }


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table of the share of right answers; rows are versions, columns shapes."""
    shapes = sorted({(r["length"], r["pairs"], r["dim"]) for r in results})
    head = " | ".join(f"T {t}, {k} pairs, width {d}" for t, k, d in shapes)
    lines = [f"| | {head} |", "|---" * (len(shapes) + 1) + "|"]
    for version in dict.fromkeys(r["version"] for r in results):
        cells = []
        for shape in shapes:
            found = [
                r["accuracy"]
                for r in results
                if (r["version"], r["length"], r["pairs"], r["dim"]) == (version, *shape)
            ]
            cells.append(f"{np.mean(found):.3f}" if found else "")
        lines.append(f"| {_NAMES[version]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Share of right answers against the step, a panel for each shape."""
    plt = plots.pyplot()
    shapes = sorted({(r["length"], r["pairs"], r["dim"]) for r in results})
    size = (1 + 3.4 * len(shapes), 3.4)
    figure, axes = plt.subplots(
        1, len(shapes), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (length, pairs, dim) in zip(axes[0], shapes, strict=True):
        for color, version in enumerate(dict.fromkeys(r["version"] for r in results)):
            label = _NAMES[version]
            for run in results:
                if (run["version"], run["length"], run["dim"]) == (version, length, dim):
                    axis.plot(*zip(*run["curve"], strict=True), color=f"C{color}", label=label)
                    label = None
        axis.set(title=f"T {length}, {pairs} pairs, width {dim}", xlabel="step", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("right answers")
    axes[0][0].legend()
    plots.save_figure(figure, path)


def main(values: flags.FlagValues) -> None:
    """Trains everything, then writes the results."""
    root = pathlib.Path(values.workdir)
    root.mkdir(parents=True, exist_ok=True)
    results = []
    for length in map(int, values.lengths):
        for dim in map(int, values.dims):
            for seed in map(int, values.seeds):
                for version in values.versions:
                    config = recipe.get_config(f"{version},{length},{dim}").to_dict()
                    config["train"]["seed"] = seed
                    config["train"]["steps"] = values.steps or config["train"]["steps"]
                    config["data"]["vocab_size"] = values.vocab or config["data"]["vocab_size"]
                    name = f"{version}-{length}-{dim}-{seed}-{config['train']['steps']}"
                    print(f"== {name}", file=sys.stderr)
                    results.append(train(config, root / name))
    with files.atomic_write(root / "results.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in results)
    files.write_text(root / "results.md", table(results) + "\n")
    plot(results, root / "accuracy.png")
    print(table(results))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
