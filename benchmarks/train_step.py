# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of a training step of Finch: ours (scan, chunked) and a PyTorch loop.

    python -m benchmarks.train_step [--dim=256 --layers=4 --batch=4 --context=512]

All contenders compute loss and gradients of the same model from the same weights; the losses must
agree before anything is timed. The PyTorch model is what a user would write from the equations
(a Python loop over time for the recurrence); it is left out where torch is missing. Runs alternate
between contenders; medians of wall and CPU time. One JSON line each, then a table with ratios, the
achieved share of the machine's matrix-product rate, and the compile time.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from core import cli, hardware, run_info
from rwkvjax import flops, model
from rwkvjax.config import Config
from rwkvjax.task import LanguageModelTask, TaskConfig
from rwkvjax.weights import to_official

_FLAGS = flags.FlagValues()
flags.DEFINE_integer("dim", 256, "Model width.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("layers", 4, "Blocks.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("head_size", 64, "Channels of a head.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("vocab", 256, "Vocabulary.", 2, flag_values=_FLAGS)
flags.DEFINE_integer("batch", 4, "Sequences.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("context", 512, "Tokens of a sequence.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("repeats", 5, "Timed runs of each.", 1, flag_values=_FLAGS)


def weights(cfg: Config) -> dict:
    """The official start, perturbed, so that no output matrix is zero."""
    params = jax.jit(lambda: model.init(jax.random.key(0), cfg))()
    rng = np.random.default_rng(0)
    noisy = lambda x: x + 0.02 * rng.standard_normal(x.shape, np.float32)
    return jax.tree.map(noisy, params)


def jax_step(cfg: Config, params: dict, tokens: np.ndarray) -> tuple[Callable[[], float], float]:
    """(function that runs one step and returns the loss, compile seconds)."""
    context = tokens.shape[1] - 1
    batch = {
        "tokens": tokens,
        "reset": np.zeros(tokens.shape, bool),
        "loss_mask": np.ones((len(tokens), context), np.float32),
    }
    task = LanguageModelTask(cfg, context, TaskConfig(l2_wrap=0.0))
    grad = jax.value_and_grad(lambda p, b: task.loss(p, (), b, None)[0])
    start = time.perf_counter()
    compiled = jax.jit(grad).lower(params, batch).compile()
    seconds = time.perf_counter() - start

    def step() -> float:
        loss, grads = compiled(params, batch)
        jax.block_until_ready(grads)
        return float(loss)

    return step, seconds


def torch_step(cfg: Config, params: dict, tokens: np.ndarray) -> Callable[[], float]:
    """The same step in PyTorch."""
    import torch
    import torch.nn.functional as functional

    official = to_official(cfg, params)
    p = {k: torch.tensor(np.asarray(v, np.float32)) for k, v in official.items()}
    for tensor in p.values():
        tensor.requires_grad_()
    heads, size, dim = cfg.heads, cfg.head_size, cfg.dim
    ids = torch.tensor(tokens.astype(np.int64))

    def norm(name: str, x: Any) -> Any:
        return functional.layer_norm(x, (dim,), p[name + ".weight"], p[name + ".bias"])

    def shift(x: Any) -> Any:
        return functional.pad(x, (0, 0, 1, -1)) - x

    def time_mix(x: Any, at: str) -> Any:
        batch, steps, _ = x.shape
        delta = shift(x)
        z = torch.tanh((x + delta * p[at + "time_maa_x"].view(-1)) @ p[at + "time_maa_w1"])
        z = z.view(batch * steps, 5, -1).transpose(0, 1)
        mixes = torch.bmm(z, p[at + "time_maa_w2"]).view(5, batch, steps, dim)
        mixed = {
            name: x + delta * (p[at + f"time_maa_{name}"].view(-1) + mixes[i])
            for i, name in enumerate("wkvrg")
        }
        linear = lambda name, y: functional.linear(y, p[at + name + ".weight"])
        split = lambda y: y.view(batch, steps, heads, size)
        r = split(linear("receptance", mixed["r"]))
        k, v = split(linear("key", mixed["k"])), split(linear("value", mixed["v"]))
        low = torch.tanh(mixed["w"] @ p[at + "time_decay_w1"]) @ p[at + "time_decay_w2"]
        w = split(torch.exp(-torch.exp(p[at + "time_decay"].view(-1) + low)))
        u = p[at + "time_faaaa"].view(heads, size, 1)
        state = torch.zeros(batch, heads, size, size)
        outputs = []
        for t in range(steps):
            kv = k[:, t, :, :, None] * v[:, t, :, None, :]
            outputs.append((r[:, t, :, None, :] @ (state + u * kv))[..., 0, :])
            state = w[:, t, :, :, None] * state + kv
        y = torch.stack(outputs, 1).reshape(batch * steps, dim)
        y = functional.group_norm(
            y, heads, p[at + "ln_x.weight"], p[at + "ln_x.bias"], cfg.group_norm_eps
        )
        return linear(
            "output", y.view(batch, steps, dim) * functional.silu(linear("gate", mixed["g"]))
        )

    def channel_mix(x: Any, at: str) -> Any:
        delta = shift(x)
        k = x + delta * p[at + "time_maa_k"].view(-1)
        r = x + delta * p[at + "time_maa_r"].view(-1)
        k = torch.relu(functional.linear(k, p[at + "key.weight"])) ** 2
        gate = torch.sigmoid(functional.linear(r, p[at + "receptance.weight"]))
        return gate * functional.linear(k, p[at + "value.weight"])

    def step() -> float:
        x = norm("blocks.0.ln0", p["emb.weight"][ids[:, :-1]])
        for layer in range(cfg.layers):
            at = f"blocks.{layer}."
            x = x + time_mix(norm(at + "ln1", x), at + "att.")
            x = x + channel_mix(norm(at + "ln2", x), at + "ffn.")
        logits = functional.linear(norm("ln_out", x), p["head.weight"])
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        for tensor in p.values():
            tensor.grad = None
        loss.backward()
        return float(loss.detach())

    return step


def measure(steps: dict[str, Callable[[], float]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median (wall, CPU) seconds of each, runs taking turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    median = lambda name, i: statistics.median(t[i] for t in times[name])
    return {name: (median(name, 0), median(name, 1)) for name in steps}


def main(values: flags.FlagValues) -> None:
    """Checks agreement, measures, prints."""
    cfg = Config(
        version="6",
        vocab_size=values.vocab,
        dim=values.dim,
        layers=values.layers,
        head_size=values.head_size,
    )
    params = weights(cfg)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, cfg.vocab_size, (values.batch, values.context + 1)).astype(np.int32)
    steps: dict[str, Callable[[], float]] = {}
    compiles = {}
    for name in ("scan", "chunked"):
        steps[name], compiles[name] = jax_step(dataclasses.replace(cfg, wkv=name), params, tokens)
    if importlib.util.find_spec("torch"):
        steps["torch loop"] = torch_step(cfg, params, tokens)
    losses = {name: step() for name, step in steps.items()}  # also the warm-up
    if max(losses.values()) - min(losses.values()) > 1e-4:
        raise cli.UserError(f"the contenders disagree: {losses}")
    report(cfg, values, measure(steps, values.repeats), compiles, losses)


def report(
    cfg: Config,
    values: flags.FlagValues,
    times: dict[str, tuple[float, float]],
    compiles: dict[str, float],
    losses: dict[str, float],
) -> None:
    """JSON lines and a table."""
    count = values.batch * values.context
    work = flops.train_flops_per_token(cfg) * count
    peak = hardware.peak_flops() or float("nan")
    print(f"{cfg.layers} x {cfg.dim}, {values.batch} x {values.context} tokens, loss and gradients")
    header = ("step", "tokens/s", "per CPU s", "x scan", "of GEMM peak", "compile s")
    print("".join(f"{h:>14}" for h in header))
    for name, (wall, cpu) in times.items():
        record = {
            "step": name,
            "loss": losses[name],
            "tokens_per_s": count / wall,
            "tokens_per_cpu_s": count / cpu,
            "speed_over_scan": times["scan"][0] / wall,
            "share_of_gemm_peak": work / wall / (peak * jax.local_device_count()),
            "compile_s": compiles.get(name, 0.0),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "git_revision": run_info.git_revision(),
        }
        cells = (
            f"{record['tokens_per_s']:.0f}",
            f"{record['tokens_per_cpu_s']:.0f}",
            f"{record['speed_over_scan']:.2f}",
            f"{record['share_of_gemm_peak']:.1%}",
            f"{record['compile_s']:.1f}",
        )
        print(f"{name:>14}" + "".join(f"{c:>14}" for c in cells))
        print(json.dumps(record))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
