# SPDX-License-Identifier: Apache-2.0
"""Loss against position, far beyond the length that a model was trained on.

    python -m benchmarks.position --checkpoints=runs/compare-4,runs/compare-6 \
        --text=heldout.txt --length=4096 --workdir=runs/position

Windows of the text are read from an empty state in segments with the state carried over, and the
loss of each position is averaged over the windows, in bins that double. A model that uses its state
falls with the position; one that was not made for the length rises (arXiv 2404.05892, figure 5).
Writes results.jsonl, results.md and position.png into the workdir.
"""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags

from core import cli, files, plots
from rwkvjax import losses, model
from rwkvjax.checkpoints import load_with_meta
from rwkvjax.config import Config
from rwkvjax.data import ReadOptions
from rwkvjax.data.corpus import open_corpus
from rwkvjax.model_flags import tokenizer_for

_FLAGS = flags.FlagValues()
flags.DEFINE_list("checkpoints", None, "Runs or weights.", flag_values=_FLAGS, required=True)
flags.DEFINE_string("text", None, "File or folder of text.", flag_values=_FLAGS, required=True)
flags.DEFINE_integer("length", 4096, "Tokens of a window.", 2, flag_values=_FLAGS)
flags.DEFINE_integer("segment", 256, "Tokens worked through at a time.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("windows", 16, "Windows of the text.", 1, flag_values=_FLAGS)
flags.DEFINE_float("last", 0.1, "Use this last part of the text.", 0.0, 1.0, flag_values=_FLAGS)
flags.DEFINE_string("workdir", "runs/position", "For the results.", flag_values=_FLAGS)


@functools.partial(jax.jit, static_argnums=1)
def _segment(params: Any, cfg: Config, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    """tokens [B, S+1] -> (losses [B, S], state)."""
    logits, state = model.apply(params, cfg, tokens[:, :-1], state)
    return losses.cross_entropy(logits, tokens[:, 1:]), state


def loss_by_position(params: Any, cfg: Config, windows: np.ndarray, segment: int) -> np.ndarray:
    """windows [B, T+1], T a multiple of `segment` -> mean loss of each position [T], in nats."""
    state = model.init_state(cfg, len(windows))
    parts = []
    for start in range(0, windows.shape[1] - 1, segment):
        found, state = _segment(params, cfg, windows[:, start : start + segment + 1], state)
        parts.append(np.asarray(found).mean(axis=0))
    return np.concatenate(parts)


def bins(length: int, first: int = 16) -> list[tuple[int, int]]:
    """[0, 16), [16, 32), [32, 64), ... up to `length`."""
    edges = [0]
    while first < length:
        edges.append(first)
        first *= 2
    return list(zip(edges, [*edges[1:], length], strict=True))


def cut(tokens: np.ndarray, count: int, length: int) -> np.ndarray:
    """`count` windows of length + 1 tokens, spread evenly over the text."""
    if len(tokens) < length + 1:
        raise cli.UserError(f"a window needs {length + 1} tokens, the text has {len(tokens)}")
    starts = np.linspace(0, len(tokens) - length - 1, count).astype(int)
    return np.stack([tokens[s : s + length + 1] for s in starts]).astype(np.int32)


def measure(path: str, values: flags.FlagValues) -> dict[str, Any]:
    """The record of one model."""
    cfg, params, meta = load_with_meta(path)
    store = open_corpus((values.text,), tokenizer_for(cfg, meta), ReadOptions())
    first = round(store.num_tokens * (1 - values.last))
    tokens = np.asarray(store.window(first, store.num_tokens - first))
    windows = cut(tokens, values.windows, values.length)
    found = loss_by_position(params, cfg, windows, values.segment)
    return {
        "checkpoint": path,
        "version": cfg.version,
        "trained_length": meta.get("config", {}).get("data", {}).get("context"),
        "bins": [[a, b, float(found[a:b].mean())] for a, b in bins(values.length)],
    }


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table: a row for each bin of positions."""
    names = [f"{pathlib.Path(r['checkpoint']).name} (RWKV-{r['version']})" for r in results]
    lines = [f"| positions | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in zip(*(r["bins"] for r in results), strict=True):
        cells = " | ".join(f"{loss:.4f}" for _, _, loss in row)
        lines.append(f"| {row[0][0]} to {row[0][1] - 1} | {cells} |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Loss against position; a dotted line where training ended."""
    plt = plots.pyplot()
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for color, run in enumerate(results):
        middle = [max(1.0, (a + b) / 2) for a, b, _ in run["bins"]]
        label = f"{pathlib.Path(run['checkpoint']).name} (RWKV-{run['version']})"
        axis.plot(middle, [x for _, _, x in run["bins"]], "o-", color=f"C{color}", label=label)
        if run["trained_length"]:
            axis.axvline(run["trained_length"], color=f"C{color}", ls=":", lw=1)
    axis.set(xscale="log", xlabel="position (dotted: trained length)", ylabel="loss (nats)")
    axis.grid(alpha=0.3)
    axis.legend()
    plots.save_figure(figure, path)


def main(values: flags.FlagValues) -> None:
    """Measures every checkpoint, then writes the results."""
    if values.length % values.segment:
        raise cli.UserError(f"--length={values.length} is not a multiple of {values.segment=}")
    root = pathlib.Path(values.workdir)
    root.mkdir(parents=True, exist_ok=True)
    with cli.explain():
        results = [measure(path, values) for path in values.checkpoints]
    with files.atomic_write(root / "results.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in results)
    files.write_text(root / "results.md", table(results) + "\n")
    plot(results, root / "position.png")
    print(table(results))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
