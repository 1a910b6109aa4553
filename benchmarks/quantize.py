# SPDX-License-Identifier: Apache-2.0
"""What quantisation costs in quality and gains in memory and speed.

    python -m benchmarks.quantize --checkpoint=runs/wikitext2 --part=quality
    python -m benchmarks.quantize --part=speed --dim=1024 --layers=8

quality: bits per byte of a real text, with every format of the weights, for the published tiny
models (Tiny Shakespeare; version 6 with two bytes a character, as it was trained) and for a run of
this library (the end of WikiText-2). Each window of the text starts from the zero state.
speed: tokens per second of the decoding loop for random weights of a given size, all formats in
turn, round after round, so that other load on the machine hits them alike; medians and ratios to
float32, and the processor's own time. Prints JSON lines and tables.
"""

from __future__ import annotations

import gzip
import json
import lzma
import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import rwkvjax
from core import cli
from core import params as params_lib
from core.datasets import find_dataset
from rwkvjax import model
from rwkvjax.matrices import QuantizedMatrix, QuantizedTable
from rwkvjax.quantization import PROJECTIONS, QuantizeConfig, nbytes, quantize
from rwkvjax.task import score

_FLAGS = flags.FlagValues()
flags.DEFINE_enum("part", "quality", ["quality", "speed"], "What to measure.", flag_values=_FLAGS)
flags.DEFINE_list(
    "models",
    ["4v0-660K", "5v2-730K", "6v0-1m", "7v0-834K"],
    "quality: published tiny models.",
    flag_values=_FLAGS,
)
flags.DEFINE_string("checkpoint", "", "quality: also this run.", flag_values=_FLAGS)
flags.DEFINE_integer("bytes", 16384, "quality: length of the text.", 1024, flag_values=_FLAGS)
flags.DEFINE_integer("context", 256, "quality: tokens of a window.", 8, flag_values=_FLAGS)
flags.DEFINE_string("version", "6", "speed: version of the model.", flag_values=_FLAGS)
flags.DEFINE_integer("dim", 1024, "speed: width.", 64, flag_values=_FLAGS)
flags.DEFINE_integer("layers", 8, "speed: layers.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("vocab", 8192, "speed: vocabulary.", 2, flag_values=_FLAGS)
flags.DEFINE_list("batches", ["1", "8"], "speed: sequences at a time.", flag_values=_FLAGS)
flags.DEFINE_integer("rounds", 7, "speed: repetitions.", 3, flag_values=_FLAGS)
flags.DEFINE_integer("tokens", 8, "speed: tokens of one repetition.", 1, flag_values=_FLAGS)

Variant = tuple[str, Callable[[Any], Any]]


def _bfloat16(params: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.bfloat16), params)


FORMATS: list[Variant] = [
    ("float32", lambda p: p),
    ("bfloat16", _bfloat16),
    ("int8, channel", lambda p: quantize(p, QuantizeConfig(8))),
    ("int4, channel", lambda p: quantize(p, QuantizeConfig(4))),
    ("int4, groups of 16", lambda p: quantize(p, QuantizeConfig(4, 16))),
]


# --- quality --------------------------------------------------------------------------------------


def models(values: flags.FlagValues) -> Iterator[tuple[str, Any, Any, np.ndarray]]:
    """(name, config, params, tokens) of each model."""
    shakespeare = gzip.decompress((find_dataset("tiny_shakespeare") / "input.txt.gz").read_bytes())
    plain = np.frombuffer(shakespeare[-values.bytes :], np.uint8)
    wide = np.frombuffer(shakespeare[-values.bytes :].decode("ascii").encode("utf-16-le"), np.uint8)
    folder = find_dataset("rwkv_tiny")
    with tempfile.TemporaryDirectory() as temporary:
        for name in values.models:
            path = pathlib.Path(temporary) / f"{name}.bin"
            packed = folder / f"tiny-rwkv-{name}-FP32.bin.xz"
            path.write_bytes(lzma.decompress(packed.read_bytes()))
            yield f"tiny {name}", *rwkvjax.load(path), wide if name == "6v0-1m" else plain
    if values.checkpoint:
        text = gzip.decompress((find_dataset("wikitext2") / "wiki.valid.tokens.gz").read_bytes())
        tokens = np.frombuffer(text[-values.bytes :], np.uint8)
        name = pathlib.Path(values.checkpoint).name
        yield f"run {name}", *rwkvjax.load(values.checkpoint), tokens


def bits_per_token(params: Any, cfg: Any, tokens: np.ndarray, context: int) -> float:
    """Mean surprise of a text in bits, window by window."""
    rows = (len(tokens) - 1) // context
    windows = np.stack([tokens[i * context : (i + 1) * context + 1] for i in range(rows)])
    parts = [score(params, cfg, jnp.asarray(w, jnp.int32)) for w in np.array_split(windows, 4)]
    return -float(np.concatenate([np.asarray(p) for p in parts]).mean()) / math.log(2)


def quality(values: flags.FlagValues) -> list[dict[str, Any]]:
    """Bits per byte of every model in every format."""
    results = []
    for name, cfg, params, tokens in models(values):
        reference = None
        for kind, change in FORMATS:
            changed = change(params)
            bits = bits_per_token(changed, cfg, tokens, values.context)
            reference = bits if reference is None else reference
            result = {
                **{"model": name, "version": cfg.version, "format": kind, "bits_per_byte": bits},
                **{"loss": bits - reference, "bytes": nbytes(changed), "tokens": len(tokens)},
            }
            results.append(result)
            print(json.dumps(result), flush=True)
    return results


def quality_table(results: list[dict[str, Any]]) -> str:
    """One row for each model, one column for each format: bits per byte, and what is lost."""
    kinds = list(dict.fromkeys(r["format"] for r in results))
    lines = [f"| model | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for name in dict.fromkeys(r["model"] for r in results):
        rows = {r["format"]: r for r in results if r["model"] == name}
        cells = [
            f"{rows[k]['bits_per_byte']:.4f}"
            + (f" ({rows[k]['loss']:+.4f})" if k != kinds[0] else "")
            for k in kinds
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --- speed ----------------------------------------------------------------------------------------


def random_params(cfg: Any) -> Any:
    """Weights of about the right size; decoding time does not depend on their values."""
    rng = np.random.default_rng(0)

    def one(path: str, spec: Any) -> Any:
        scale = 0.02 if len(spec.shape) > 2 or not path.startswith("blocks") else 0.1
        values = rng.standard_normal(spec.shape, np.float32)
        return jnp.asarray(scale * values)

    return params_lib.map_with_path(one, model.param_specs(cfg))


def random_integers(params: Any, bits: int, group: int) -> Any:
    """As `quantize` lays them out, without its search."""
    rng = np.random.default_rng(0)

    def one(path: str, leaf: Any) -> Any:
        if path == "emb/weight":
            values = rng.integers(-127, 128, leaf.shape, np.int8)
            return QuantizedTable(
                jnp.asarray(values), jnp.full((len(values), 1), 1e-3, jnp.bfloat16)
            )
        if path != "head/weight" and path.rsplit("/", 1)[-1] not in PROJECTIONS:
            return leaf
        *lead, rows, columns = leaf.shape
        kind: Any = np.int8 if bits == 8 else np.uint8
        shape = (*lead, rows * bits // 8, columns)
        low, high = (-127, 128) if bits == 8 else (0, 256)
        values = rng.integers(low, high, shape, kind)
        scale = jnp.full((*lead, rows // (group or rows), columns), 1e-3, jnp.bfloat16)
        return QuantizedMatrix(jnp.asarray(values), scale, bits)

    return params_lib.map_with_path(one, params)


def decoder(cfg: Any, count: int) -> Callable[..., Any]:
    """A compiled loop that feeds each most likely token back `count` times."""

    def run(params: Any, token: jax.Array, state: Any) -> Any:
        def body(carry: Any, _: None) -> Any:
            token, state = carry
            logits, state = model.step(params, cfg, token, state)
            return (jnp.argmax(logits, axis=-1).astype(jnp.int32), state), None

        return jax.lax.scan(body, (token, state), None, length=count)[0]

    return jax.jit(run)


def speed(values: flags.FlagValues) -> list[dict[str, Any]]:
    """Decoding speed of every format, interleaved."""
    sizes = {"dim": values.dim, "layers": values.layers, "vocab_size": values.vocab}
    cfg = rwkvjax.Config(version=values.version, **sizes)
    narrow = rwkvjax.Config(version=values.version, dtype="bfloat16", **sizes)
    params = random_params(cfg)
    variants: list[tuple[str, Any, Any]] = [
        ("float32", cfg, params),
        ("bfloat16 stored", cfg, _bfloat16(params)),
        ("bfloat16 stored and computed", narrow, _bfloat16(params)),
        ("int8, channel", cfg, random_integers(params, 8, 0)),
        ("int4, channel", cfg, random_integers(params, 4, 0)),
        ("int4, groups of 64", cfg, random_integers(params, 4, 64)),
    ]
    results = []
    for batch in map(int, values.batches):
        programs = [(name, decoder(c, values.tokens), p) for name, c, p in variants]
        token, state = jnp.zeros(batch, jnp.int32), model.init_state(cfg, batch)
        times: dict[str, list[float]] = {name: [] for name, _, _ in programs}
        work: dict[str, list[float]] = {name: [] for name, _, _ in programs}
        for _, program, p in programs:
            jax.block_until_ready(program(p, token, state))
        for _ in range(values.rounds):
            for name, program, p in programs:
                start, cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(program(p, token, state))
                times[name].append(time.perf_counter() - start)
                work[name].append(time.process_time() - cpu)
        ratios = {n: float(np.median(np.divide(times["float32"], t))) for n, t in times.items()}
        for name, _, p in programs:
            median = float(np.median(times[name]))
            result = {
                **{"format": name, "batch": batch, "mib": nbytes(p) / 2**20},
                **{"tokens_per_second": batch * values.tokens / median},
                **{"cpu_ms_per_step": 1e3 * float(np.median(work[name])) / values.tokens},
                **{"speed_up": ratios[name], "device": jax.devices()[0].device_kind, **sizes},
            }
            results.append(result)
            print(json.dumps(result), flush=True)
    return results


def speed_table(results: list[dict[str, Any]]) -> str:
    """Formats in rows, batch sizes in columns."""
    batches = list(dict.fromkeys(r["batch"] for r in results))
    one = "tokens/s at batch {} | to float32 | CPU ms a step"
    heads = " | ".join(one.format(b) for b in batches)
    lines = [f"| format | MiB | {heads} |", "|---|---" + "|---|---|---" * len(batches) + "|"]
    for name in dict.fromkeys(r["format"] for r in results):
        rows = [r for r in results if r["format"] == name]
        cells = " | ".join(
            f"{r['tokens_per_second']:.1f} | {r['speed_up']:.2f} | {r['cpu_ms_per_step']:.1f}"
            for r in rows
        )
        lines.append(f"| {name} | {rows[0]['mib']:.0f} | {cells} |")
    return "\n".join(lines)


def main(values: flags.FlagValues) -> None:
    """Measures and prints."""
    if values.part == "quality":
        with cli.explain():
            print("\n" + quality_table(quality(values)))
    else:
        print("\n" + speed_table(speed(values)))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
