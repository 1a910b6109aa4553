# SPDX-License-Identifier: Apache-2.0
"""Online gradients of trained RWKV-4 and RWKV-6 models on real text.

    python -m benchmarks.ostl_rwkv [--bytes=128] [--learn=2000] [--output=rwkv.jsonl]

gradient  the top blocks of a byte model read Shakespeare: relative error and cosine of the online
          gradient to BPTT in float64, block by block, and what the deep rule loses below; the same
          for BPTT cut after every byte, to see how much of the gradient comes from the past
learn     the last block of the model learns while it reads on (the rest is frozen), its state and
          traces carried through: bits per byte of OSTL with an update every k bytes, of BPTT
          truncated to the same k, and of the frozen model

RWKV-6 is the trained model of the data set rwkv_tiny. That set's RWKV-4 has lost nearly all of its
weights, so a small RWKV-4 is trained here first, on text that comes later in the same file. One
JSON line for each number. Needs the data sets rwkv_tiny and tiny_shakespeare.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
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
from benchmarks import measuring
from core.datasets import find_dataset
from snn import cells, ostl, rwkv_cells

_BYTES = flags.DEFINE_integer("bytes", 128, "Bytes of the gradient comparison.", 2)
_LEARN = flags.DEFINE_integer("learn", 2000, "Bytes to learn from; 0 leaves this part out.", 0)
_EVERY = flags.DEFINE_list("every", ["1", "8"], "Bytes between updates.")
_RATE = flags.DEFINE_float("rate", 0.005, "Learning rate (plain SGD).")
_TRAIN = flags.DEFINE_integer("train", 300, "Steps of training the RWKV-4 model.", 1)
_VERSIONS = flags.DEFINE_list("versions", ["4", "6"], "Versions of RWKV.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")

FILE = "tiny-rwkv-6v0-1m-FP32.bin.xz"
SMALL = rwkvjax.Config(version="4", vocab_size=256, dim=64, layers=3)
TOP_BLOCKS = {"4": 3, "6": 3}
HELD_OUT = 200_000  # the training of RWKV-4 starts at this byte


def report(line: dict[str, Any]) -> None:
    """Prints one JSON line and appends it to the output."""
    measuring.report(line, _OUTPUT.value)


@functools.cache
def trained() -> Any:
    """Parameters of a small RWKV-4 after some steps on batches of 8 x 64 bytes."""
    net = rwkv_cells.stack(SMALL)
    start = rwkvjax.init(jax.random.key(0), SMALL)
    data = text(HELD_OUT + 500_000)[HELD_OUT:]
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    loss = lambda logits, target: cross_entropy(logits, target) / (8 * 64)
    learn = jax.jit(ostl.update(ostl.Bptt(), net, loss, tx))
    params = rwkv_cells.stack_params(SMALL, start)
    opt_state, rng = tx.init(params), np.random.default_rng(0)
    empty = ostl.init(ostl.Bptt(), net, params, 8)
    for _ in range(_TRAIN.value):
        at = rng.integers(0, len(data) - 65, 8)
        rows = np.stack([data[i : i + 65] for i in at], axis=1)
        params, opt_state, _, value = learn(params, opt_state, empty, rows[:-1], rows[1:])
    report({"part": "train", "version": "4", "bits_per_byte": float(value) / math.log(2)})
    return params


def load(version: str, dtype: Any) -> tuple[Any, Any]:
    """(config, parameters of its stack) in `dtype`."""
    config, params = (SMALL, trained()) if version == "4" else load_file()
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), params)
    return dataclasses.replace(config, dtype=jnp.dtype(dtype).name), params


def load_file() -> tuple[Any, Any]:
    """(config, parameters of its stack) of the stored model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        path.write_bytes(lzma.open(find_dataset("rwkv_tiny") / FILE).read())
        config, params = rwkvjax.load(path)
    return config, rwkv_cells.stack_params(config, params)


def text(count: int, version: str = "4") -> np.ndarray:
    """The first bytes of Shakespeare; RWKV-6 was trained on two bytes for each character."""
    with gzip.open(find_dataset("tiny_shakespeare") / "input.txt.gz") as file:
        found = np.frombuffer(file.read(count), np.uint8).astype(np.int32)
    if version == "6":
        found = np.stack([found, np.zeros_like(found)], axis=1).reshape(-1)
    return found[:count]


def top(version: str, blocks: int, count: int, dtype: Any) -> tuple[Any, Any, Any, Any]:
    """(stack of the last `blocks` blocks and the head, parameters, its inputs, targets)."""
    config, own = load(version, dtype)
    net = rwkv_cells.stack(config)
    cut = config.layers + 2 - blocks
    below = cells.Stack(net.layers[:cut])
    tokens = jnp.asarray(text(count + 1, version)[:, None])
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
    methods = {"bptt": ostl.Bptt(), "ostl": ostl.Ostl(), "cut": ostl.TruncatedBptt(1)}
    for name, method in methods.items():
        f = jax.jit(ostl.value_and_grad(method, net, cross_entropy))
        found[name] = f(params, ostl.init(method, net, params, 1), xs, targets)[1]
    for i in range(blocks + 2):
        a, b, cut = (
            np.concatenate([np.ravel(x) for x in jax.tree.leaves(found[name][f"layer_{i}"])])
            for name in ("ostl", "bptt", "cut")
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
                "error_of_cut": float(np.linalg.norm(cut - b) / np.linalg.norm(b)),
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
    for version in _VERSIONS.value:
        with jax.enable_x64(True):
            gradients(version)
        if _LEARN.value:
            learn(version)


if __name__ == "__main__":
    app.run(main)
