# SPDX-License-Identifier: Apache-2.0
"""Associative recall (MQAR) of RWKV-4, Eagle, Finch and Goose over lengths and widths.

    python -m benchmarks.mqar --workdir=runs/mqar --lengths=64,128 --dims=32,64

One training each (configs/rwkvjax/mqar.py holds the recipe), ended by the first evaluation with
more than 99 % right answers; finished ones are not repeated. Writes results.jsonl, results.md and
results.png (accuracy against the width) into the workdir. Pairs are an eighth of the length. The
paper's figure (arXiv 2404.05892, figure 4) has lengths 64 to 512 and widths 64 to 512 with a
vocabulary of 8192, which are reached by the flags, given time.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import training
from configs.rwkvjax import mqar as recipe
from core import cli, optim, plots
from core import config as config_lib
from core.loop import TrainConfig, Trainer
from rwkvjax import model as model_lib
from rwkvjax.config import Config
from rwkvjax.data.mqar import Recall
from rwkvjax.optim import group_fn
from rwkvjax.task import LanguageModelTask, TaskConfig

_FLAGS = flags.FlagValues()
training.define_flags(_FLAGS, "runs/mqar")
flags.DEFINE_list("lengths", ["64"], "Tokens of an example.", flag_values=_FLAGS)
flags.DEFINE_list("dims", ["64"], "Model widths.", flag_values=_FLAGS)
flags.DEFINE_integer("vocab", 0, "Vocabulary; 0 for the recipe's.", 0, flag_values=_FLAGS)


class RecallTask(LanguageModelTask):
    """Language modelling whose evaluation counts right answers."""

    def eval_sums(self, params: Any, batch: Any) -> dict[str, jax.Array]:
        """Right and asked answers of one held-out batch."""
        tokens = batch["tokens"]
        logits, _ = model_lib.apply(params, self.cfg, tokens[:, :-1])
        mask = batch["loss_mask"] * batch["valid"][:, None]
        right = (jnp.argmax(logits, axis=-1) == tokens[:, 1:]) * mask
        return {"right": right.sum(), "asked": mask.sum()}

    def eval_metrics(self, sums: Any) -> dict[str, float]:
        """Share of right answers."""
        return {"accuracy": sums["right"] / sums["asked"]}

    def enough(self, values: Any) -> bool:
        """Solved."""
        return values["eval/accuracy"] > 0.99


def train(model: str, values: Any, root: pathlib.Path) -> training.Result:
    """Trains one model (or finds it trained) and returns its record."""
    cfg = config_lib.build(Config, {**values["model"], "vocab_size": values["data"]["vocab_size"]})
    how = config_lib.build(TrainConfig, values["train"])
    with cli.explain():
        source = Recall(**values["data"])
    held = Recall(**{**values["data"], "seed": source.seed + 1_000_003, "size": 1000})
    task = RecallTask(
        cfg, source.steps, TaskConfig(l2_wrap=0.0), eval_source=held, eval_batch_size=100
    )
    optimizer = config_lib.build(optim.AdamWConfig, values["optimizer"])
    tx = optim.adamw(optimizer, task.param_specs(), how.steps, group_fn(1))
    workdir = root / f"{model}-{source.steps}-{cfg.dim}-{source.vocab_size}-{how.seed}-{how.steps}"
    trainer = Trainer(task, tx, source, how, workdir, run_config=values)
    found = training.evaluations(trainer, "eval/accuracy")
    return {
        "model": model,
        "length": source.steps,
        "pairs": source.pairs,
        "dim": cfg.dim,
        "seed": how.seed,
        "steps": int(found[-1]["step"]),
        "accuracy": found[-1]["eval/accuracy"],
        "curve": [(r["step"], r["eval/accuracy"]) for r in found],
    }


def table(results: list[training.Result]) -> str:
    """A Markdown table of accuracies, with the step where a run ended; columns are widths."""
    dims = sorted({r["dim"] for r in results})
    lines = [
        f"| T, pairs | | {' | '.join(f'width {dim}' for dim in dims)} |",
        "|---" * (len(dims) + 2) + "|",
    ]
    for length in sorted({r["length"] for r in results}):
        here = [r for r in results if r["length"] == length]
        for model, group in training.by_model(here):
            cells = []
            for dim in dims:
                runs = [r for r in group if r["dim"] == dim]
                share = f"{np.mean([r['accuracy'] for r in runs]):.3f}" if runs else ""
                steps = f" ({', '.join(str(r['steps']) for r in runs)})" if runs else ""
                cells.append(share + steps)
            shape = f"{length}, {here[0]['pairs']}"
            lines.append(f"| {shape} | {training.name_of(model)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: list[training.Result]) -> Any:
    """Share of right answers against the width, a panel for each length; the mean over seeds."""
    lengths, dims = (sorted({r[key] for r in results}) for key in ("length", "dim"))
    size = (1 + 3.4 * len(lengths), 3.4)
    figure, axes = plots.pyplot().subplots(
        1, len(lengths), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, length in zip(axes[0], lengths, strict=True):
        for color, (model, group) in enumerate(training.by_model(results)):
            here = {
                dim: [r["accuracy"] for r in group if (r["length"], r["dim"]) == (length, dim)]
                for dim in dims
            }
            points = [(dim, np.mean(found)) for dim, found in here.items() if found]
            style = {"color": f"C{color}", "label": training.name_of(model)}
            axis.plot([dim for dim, _ in points], [mean for _, mean in points], "o-", **style)
        axis.set(title=f"{length} tokens, {length // 8} pairs", xlabel="width", xscale="log")
        axis.set_xticks(dims, [str(dim) for dim in dims], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set(ylabel="right answers", ylim=(-0.02, 1.02))
    axes[0][0].legend()
    return figure


def main(values: flags.FlagValues) -> None:
    """Trains everything, then writes the results."""
    root, results = pathlib.Path(values.workdir), []
    shapes = itertools.product(values.lengths, values.dims, values.seeds, values.models)
    for length, dim, seed, model in shapes:
        version, fields = training.parse(model)
        config = recipe.get_config(f"{version},{length},{dim}")
        config.model.update(fields)
        config.train.seed = int(seed)
        config.train.steps = values.steps or config.train.steps
        config.data.vocab_size = values.vocab or config.data.vocab_size
        results.append(train(model, config.to_dict(), root))
    training.write(root, results, table, plot)


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
