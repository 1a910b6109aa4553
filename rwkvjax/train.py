# SPDX-License-Identifier: Apache-2.0
"""Trains a language model.

    python -m rwkvjax.train --config=configs/rwkvjax/quickstart.py --workdir=runs/quickstart

Started again with the same command, it resumes. The workdir receives config.json, metrics.jsonl,
checkpoints/, loss.png and samples.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from core import cli, files, optim, plots
from core import params as params_lib
from core.loop import Trainer
from rwkvjax import flops
from rwkvjax.data import Mixture, format_report
from rwkvjax.experiment import RunConfig, build_config, make_trainer
from rwkvjax.finetune.run import export
from rwkvjax.finetune.task import AdapterTask
from rwkvjax.model import param_specs
from rwkvjax.optim import group_fn
from rwkvjax.sampling import Sampling, generate
from rwkvjax.tokenizers import decodable_ids, get_tokenizer


def main(config: Any, workdir: str) -> None:
    """Trains as configured, then writes the loss curve and prints continuations."""
    out = Path(workdir).expanduser().resolve()
    main_process = jax.process_index() == 0
    with cli.explain():
        cfg = build_config(config)
        trainer = make_trainer(cfg, out)
    if main_process:
        print(describe(cfg, trainer), file=sys.stderr)
    state = trainer.run()
    params = state.ema if cfg.train.ema else state.params
    initial = None
    if isinstance(trainer.task, AdapterTask):
        task = trainer.task
        if main_process:
            export(task, params, out)
        params, initial = task.assemble(params, task.frozen, 1)
    samples = sample(cfg, params, initial or None)
    if main_process:
        finish(cfg, out, samples)
        if isinstance(trainer.source, Mixture):
            print(format_report(trainer.source.report(cfg.train.steps * cfg.train.batch_size)))


def describe(cfg: RunConfig, trainer: Trainer) -> str:
    """A few lines about the run that is about to start."""
    count = params_lib.count(trainer.specs)
    data, train = cfg.data, cfg.train
    size = getattr(trainer.source, "num_tokens", 0)
    tokens = train.steps * train.batch_size * data.context
    what = f"{count:,} parameters"
    if cfg.finetune.has_adapter:
        base = params_lib.count(param_specs(cfg.model))
        what = f"{count:,} trained by {cfg.finetune.method!r} beside {base:,} frozen parameters"
    long = [(n, getattr(trainer.source, n, 0)) for n in ("cut", "skipped")]
    groups = optim.describe_groups(trainer.specs, group_fn(cfg.task.stage))
    sizes = ", ".join(f"{label} ({len(paths)} arrays)" for label, paths in sorted(groups.items()))
    notes = "".join(f"{n} conversations longer than the context {k}\n" for k, n in long if n)
    return (
        f"RWKV-{cfg.model.version}: {what}, {cfg.model.layers} layers,"
        f" width {cfg.model.dim}, vocabulary {cfg.model.vocab_size}\n{notes}"
        f"optimiser groups: {sizes}\n"
        f"data {', '.join(data.train)}: {size:,} {data.tokenizer} tokens\n"
        f"{train.steps} steps of {train.batch_size} x {data.context} = {tokens:,} tokens,"
        f" {flops.train_flops_per_token(cfg.model) * tokens:.3g} FLOP,"
        f" mesh {dict(trainer.mesh.shape)}, {jax.devices()[0].device_kind}"
    )


def sample(cfg: RunConfig, params: Any, state: Any = None) -> list[tuple[str, str]]:
    """(prompt, continuation) for each prompt of the configuration, from an initial state."""
    tokenizer = get_tokenizer(cfg.data.tokenizer)
    vocab = decodable_ids(tokenizer)
    how = Sampling(cfg.sample.temperature, cfg.sample.top_p, vocab=vocab)
    results = []
    for number, prompt in enumerate(cfg.sample.prompts):
        tokens = np.asarray(tokenizer.encode(prompt), np.int32)[None]
        new = generate(params, cfg.model, tokens, cfg.sample.tokens, how, number, state=state)
        results.append((prompt, tokenizer.decode(new[0])))
    return results


def finish(cfg: RunConfig, out: Path, samples: list[tuple[str, str]]) -> None:
    """Writes the pictures and texts of a finished run."""
    if samples:
        rule = "-" * 72
        text = "\n".join(f"{rule}\n{prompt}\033[1m{new}\033[0m" for prompt, new in samples)
        plain = "\n".join(f"{rule}\n{prompt}{new}" for prompt, new in samples)
        print(text if sys.stdout.isatty() else plain)
        with files.atomic_write(out / "samples.txt", "w") as f:
            f.write(plain + "\n")
    title = f"RWKV-{cfg.model.version}, {cfg.model.layers} x {cfg.model.dim}"
    held_out = ("eval/bits_per_byte", "held-out bits per byte")
    plots.loss_curve(out / "metrics.jsonl", out / "loss.png", title, held_out=held_out)
    print(f"\nresults in {out}: loss.png, samples.txt, metrics.jsonl, checkpoints/")


if __name__ == "__main__":
    cli.run(main)
