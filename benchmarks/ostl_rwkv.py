# SPDX-License-Identifier: Apache-2.0
"""Online gradients of trained RWKV-4 and RWKV-6 models on real text.

    python -m benchmarks.ostl_rwkv [--bytes=128] [--learn=2000] [--output=rwkv.jsonl]

gradient  the top blocks of a trained byte model read Shakespeare: relative error and cosine of the
          online gradient to BPTT in float64, block by block, and what the deep rule loses below
learn     the last block of the model learns while it reads on (the rest is frozen), its state and
          traces carried through: bits per byte of OSTL with an update every k bytes, of BPTT
          truncated to the same k, and of the frozen model

Needs the data sets rwkv_tiny and tiny_shakespeare. One JSON line for each number.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import lzma
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import rwkvjax
from core.datasets import find_dataset
from snn import cells, ostl, rwkv_cells

_BYTES = flags.DEFINE_integer("bytes", 128, "Bytes of the gradient comparison.", 2)
_LEARN = flags.DEFINE_integer("learn", 2000, "Bytes to learn from; 0 leaves this part out.", 0)
_EVERY = flags.DEFINE_list("every", ["1", "8", "64"], "Bytes between updates.")
_RATE = flags.DEFINE_float("rate", 0.02, "Learning rate (plain SGD) for updates every byte.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")

FILES = {"4": "tiny-rwkv-4v0-660K-FP32.bin.xz", "6": "tiny-rwkv-6v0-1m-FP32.bin.xz"}
TOP_BLOCKS = {"4": 4, "6": 3}


def report(line: dict[str, Any]) -> None:
    """Prints one JSON line and appends it to the output."""
    text = json.dumps(line)
    print(text, flush=True)
    if _OUTPUT.value:
        with open(_OUTPUT.value, "a", encoding="utf-8") as file:
            file.write(text + "\n")


def load(version: str, dtype: Any) -> tuple[Any, Any]:
    """(config, parameters of the model) in `dtype`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        path.write_bytes(lzma.open(find_dataset("rwkv_tiny") / FILES[version]).read())
        config, params = rwkvjax.load(path)
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), params)
    return dataclasses.replace(config, dtype=jnp.dtype(dtype).name), params


def text(count: int) -> np.ndarray:
    """The first bytes of Shakespeare."""
    with gzip.open(find_dataset("tiny_shakespeare") / "input.txt.gz") as file:
        return np.frombuffer(file.read(count), np.uint8).astype(np.int32)


def top(version: str, blocks: int, count: int, dtype: Any) -> tuple[Any, Any, Any, Any]:
    """(stack of the last `blocks` blocks and the head, parameters, its inputs, targets)."""
    config, params = load(version, dtype)
    net, own = rwkv_cells.stack(config), rwkv_cells.stack_params(config, params)
    cut = config.layers + 2 - blocks
    below = cells.Stack(net.layers[:cut])
    tokens = jnp.asarray(text(count + 1)[:, None])
    lower = {f"layer_{i}": own[f"layer_{i}"] for i in range(cut)}
    _, xs = cells.unroll(below, lower, below.init_state(1, dtype), tokens[:-1])
    above = cells.Stack(net.layers[cut:])
    upper = {f"layer_{i}": own[f"layer_{i + cut}"] for i in range(blocks + 2)}
    return above, upper, xs, tokens[1:]


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Nats of one step."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, target).sum()


def gradients(version: str) -> None:
    """Error and cosine of each block."""
    blocks = TOP_BLOCKS[version]
    net, params, xs, targets = top(version, blocks, _BYTES.value, jnp.float64)
    found = {}
    for name, method in (("bptt", ostl.Bptt()), ("ostl", ostl.Ostl())):
        f = jax.jit(ostl.value_and_grad(method, net, cross_entropy))
        found[name] = f(params, ostl.init(method, net, params, 1), xs, targets)[1]
    for i in range(blocks + 2):
        a, b = (
            np.concatenate([np.ravel(x) for x in jax.tree.leaves(found[name][f"layer_{i}"])])
            for name in ("ostl", "bptt")
        )
        names = ["output norm", "head"]
        name = f"block {blocks - i} from the top" if i < blocks else names[i - blocks]
        report(
            {
                "part": "gradient",
                "version": version,
                "bytes": _BYTES.value,
                "layer": name,
                "error": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
                "cosine": float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
                "size_to_bptt": float(np.linalg.norm(a) / np.linalg.norm(b)),
            }
        )


def learn(version: str) -> None:
    """Bits per byte while the last block learns."""
    count = _LEARN.value
    net, params, xs, targets = top(version, 1, count, jnp.float32)
    bits = lambda value: round(float(value) / count / math.log(2), 4)
    frozen = jax.jit(ostl.update(ostl.Bptt(), net, cross_entropy, optax.set_to_zero(), 8))
    start = ostl.init(ostl.Bptt(), net, params, 1)
    head = {"part": "learn", "version": version, "bytes": count}
    value = frozen(params, optax.set_to_zero().init(params), start, xs, targets)[3]
    report({**head, "method": "frozen", "every": None, "bits_per_byte": bits(value)})
    for every in map(int, _EVERY.value):
        # Gradients are sums over k bytes, so the rate of each byte is the same for every k.
        tx = optax.sgd(_RATE.value)
        for name, method in (("ostl", ostl.Ostl()), ("bptt", ostl.Bptt())):
            f = jax.jit(ostl.update(method, net, cross_entropy, tx, every))
            carry = ostl.init(method, net, params, 1)
            value = f(params, tx.init(params), carry, xs, targets)[3]
            report({**head, "method": name, "every": every, "bits_per_byte": bits(value)})


def main(argv: list[str]) -> None:
    """Both versions."""
    for version in FILES:
        with jax.enable_x64(True):
            gradients(version)
        if _LEARN.value:
            learn(version)


if __name__ == "__main__":
    app.run(main)
