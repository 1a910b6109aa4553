# SPDX-License-Identifier: Apache-2.0
"""Models trained side by side: what `benchmarks.architectures` and `benchmarks.mqar` share.

A model is written VERSION or VERSION:field=value:..., with fields of `rwkvjax.config.Config`, for
instance 6:ddlerp=none.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from core import cli, files, metrics, plots
from core.loop import Trainer

_NAMES = {"4": "RWKV-4", "5.2": "RWKV-5.2 Eagle", "6": "RWKV-6 Finch", "7": "RWKV-7 Goose"}

Result = dict[str, Any]  # the record of one training; "model" is what it was asked for as


def define_flags(values: flags.FlagValues, workdir: str) -> None:
    """The flags that both programs have."""
    flags.DEFINE_string("workdir", workdir, "Where runs lie.", flag_values=values)
    flags.DEFINE_list(
        "models", ["4", "5.2", "6"], "Models to train, VERSION[:field=value].", flag_values=values
    )
    flags.DEFINE_list("seeds", ["0"], "Seeds of each model.", flag_values=values)
    flags.DEFINE_integer(
        "steps", 0, "Steps of each run; 0 for the recipe's.", 0, flag_values=values
    )


def parse(model: str) -> tuple[str, dict[str, Any]]:
    """(version, further fields of the configuration): numbers where they are numbers."""
    version, *fields = model.split(":")
    if version not in _NAMES or not all("=" in field for field in fields):
        raise cli.UserError(
            f"expected VERSION[:field=value] with a version of {', '.join(_NAMES)}, got {model!r}"
        )
    pairs = (field.split("=", 1) for field in fields)
    return version, {k: _value(v) for k, v in pairs}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def name_of(model: str) -> str:
    """As it is called in tables and legends."""
    version, fields = parse(model)
    return ", ".join([_NAMES[version], *(f"{k} {v}" for k, v in fields.items())])


def by_model(results: list[Result]) -> Iterator[tuple[str, list[Result]]]:
    """(model, its results), in the order of the results."""
    for model in dict.fromkeys(r["model"] for r in results):
        yield model, [r for r in results if r["model"] == model]


def evaluations(trainer: Trainer, metric: str) -> list[dict[str, float]]:
    """The evaluations of a run, which is trained unless it is found finished."""
    log, enough = trainer.workdir / "metrics.jsonl", getattr(trainer.task, "enough", None)

    def found() -> list[dict[str, float]]:
        return [r for r in metrics.read_jsonl(log) if metric in r] if log.exists() else []

    before = found()
    if before and (before[-1]["step"] == trainer.cfg.steps or (enough and enough(before[-1]))):
        return before
    print(f"== {trainer.workdir}", file=sys.stderr)
    trainer.run()
    return found()


def write(
    root: pathlib.Path,
    results: list[Result],
    table: Callable[[list[Result]], str],
    plot: Callable[[list[Result]], Any],
) -> None:
    """Writes results.jsonl, results.md and results.png, and prints the table."""
    with files.atomic_write(root / "results.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in results)
    files.write_text(root / "results.md", table(results) + "\n")
    plots.save_figure(plot(results), root / "results.png")
    print(table(results))
