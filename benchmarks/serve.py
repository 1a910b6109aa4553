# SPDX-License-Identifier: Apache-2.0
"""The server: tokens a second against concurrency, time to first token against conversation length.

    python -m benchmarks.serve [--checkpoint=FILE] [--output=serve.jsonl] [--plot=serve.png]

Without a checkpoint, a random RWKV-6 of the given sizes is served (World vocabulary). Every server
is a process of its own and is asked through its HTTP interface with greedy streams of equal
length, measured in turn within one run; medians of the repeats are shown. If torch and the official
package `rwkv` are installed, its token-by-token loop is timed on the same weights.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from absl import app, flags

from core import plots

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Weights; by default random ones.")
_LAYERS = flags.DEFINE_integer("layers", 8, "Of the random model.", 2)
_DIM = flags.DEFINE_integer("dim", 512, "Of the random model.", 64)
_SLOTS = flags.DEFINE_integer("slots", 16, "Slots of the server.", 2)
_TOKENS = flags.DEFINE_integer("tokens", 32, "Length of every answer.", 2)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measurements of each kind, in turn.", 1)
_LENGTHS = flags.DEFINE_list("lengths", ["64", "256", "1024", "4096"], "Conversation lengths.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides the table.")
_PLOT = flags.DEFINE_string("plot", None, "PNG of the time to first token.")

_TURN = 16  # new tokens of a turn


@dataclasses.dataclass
class Server:
    """A running server and how it is asked."""

    pid: int
    port: int
    vocab: int

    def cpu(self) -> float:
        """CPU seconds of the server so far."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    async def ask(self, prompt: list[int], tokens: int) -> tuple[float, float, int]:
        """(seconds to the first token, seconds in all, tokens) of one greedy stream."""
        body = {"model": "rwkv", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        body |= {"stream": True, "logit_bias": {"0": -100}}
        data = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
        writer.write(f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode())
        writer.write(data)
        first, drawn = 0.0, 0
        async for line in reader:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - start
                usage = json.loads(line[6:]).get("usage")
                drawn = usage["completion_tokens"] if usage else drawn
        writer.close()
        return first, time.perf_counter() - start, drawn

    async def rate(self, concurrency: int, tokens: int) -> float:
        """Tokens a second of `concurrency` streams at once, prompts of different lengths."""
        random = np.random.default_rng(concurrency)
        prompts = [random.integers(1, self.vocab, 4 + i % 13).tolist() for i in range(concurrency)]
        start = time.perf_counter()
        found = await asyncio.gather(*(self.ask(prompt, tokens) for prompt in prompts))
        assert all(drawn == tokens for _, _, drawn in found), found
        return concurrency * tokens / (time.perf_counter() - start)


@contextlib.contextmanager
def serving(checkpoint: str, vocab: int, *options: str):
    """A server of the checkpoint, without the prefix cache unless an option sets it."""
    command = [sys.executable, "-m", "rwkvjax.serve", f"--checkpoint={checkpoint}", "--port=0"]
    process = subprocess.Popen(
        [*command, "--cache_mib=0", *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = re.search(r":(\d+)/v1", process.stdout.readline())
    if not found:
        raise RuntimeError(f"the server ended with {process.wait()}")
    try:
        yield Server(process.pid, int(found.group(1)), vocab)
    finally:
        process.terminate()
        process.wait()


def throughput(checkpoint: str, vocab: int) -> dict:
    """Tokens a second: one after the other, all at once, and a server with a single slot."""
    slots, tokens = _SLOTS.value, _TOKENS.value
    rates: dict[str, list[float]] = {"sequential": [], "batched": [], "single_slot": []}
    cpu: dict[str, list[float]] = {name: [] for name in rates}
    with (
        serving(checkpoint, vocab, f"--slots={slots}") as many,
        serving(checkpoint, vocab, "--slots=1") as one,
    ):
        kinds = {"sequential": (many, 1), "batched": (many, slots), "single_slot": (one, 1)}
        for server in (many, one):
            asyncio.run(server.rate(2, 4))
        for _ in range(_REPEATS.value):
            for name, (server, concurrency) in kinds.items():
                before = server.cpu()
                rates[name].append(asyncio.run(server.rate(concurrency, tokens)))
                cpu[name].append(1000 * (server.cpu() - before) / (concurrency * tokens))
    result: dict = {"measure": "throughput", "slots": slots}
    result |= {name: statistics.median(values) for name, values in rates.items()}
    result |= {f"{name}_cpu_ms": statistics.median(values) for name, values in cpu.items()}
    for other in ("sequential", "single_slot"):
        ratios = [b / s for b, s in zip(rates["batched"], rates[other], strict=True)]
        result[f"batched_over_{other}"] = statistics.median(ratios)
    return result


def first_token(checkpoint: str, vocab: int) -> list[dict]:
    """Seconds to the first token of the next turn, after conversations of growing length."""
    random = np.random.default_rng(0)
    rows = []
    with (
        serving(checkpoint, vocab, "--slots=2", "--cache_mib=512") as cached,
        serving(checkpoint, vocab, "--slots=2") as plain,
    ):
        for server in (cached, plain):
            asyncio.run(server.ask(random.integers(1, vocab, 600).tolist(), 2))
        for length in map(int, _LENGTHS.value):
            times: dict[str, list[float]] = {"cached": [], "uncached": []}
            for _ in range(_REPEATS.value):
                past = random.integers(1, vocab, length).tolist()
                turn = random.integers(1, vocab, _TURN).tolist()
                asyncio.run(cached.ask(past, 1))  # the conversation so far
                times["cached"].append(asyncio.run(cached.ask(past + turn, 2))[0])
                times["uncached"].append(asyncio.run(plain.ask(past + turn, 2))[0])
            medians = {name: statistics.median(t) for name, t in times.items()}
            rows.append({"measure": "first_token", "length": length} | medians)
    return rows


def official(checkpoint: str) -> dict | None:
    """Tokens a second of the official package's loop, or None where it is not installed."""
    os.environ |= {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
    try:
        import torch
        from rwkv.model import RWKV
        from safetensors.torch import load_file
    except ImportError:
        return None
    path = Path(checkpoint).with_suffix("")
    torch.save(load_file(checkpoint), f"{path}.pth")
    peer = RWKV(str(path), strategy="cpu fp32", verbose=False)
    rates = []
    for _ in range(_REPEATS.value):
        logits, state = peer.forward(list(range(1, 9)), None)
        start = time.perf_counter()
        for _ in range(_TOKENS.value):
            logits, state = peer.forward([int(logits.argmax())], state)
        rates.append(_TOKENS.value / (time.perf_counter() - start))
    return {"measure": "official", "sequential": statistics.median(rates)}


def _random_checkpoint(folder: str) -> str:
    from safetensors.numpy import save_file

    from rwkvjax.weights.synthetic import random_checkpoint

    path = f"{folder}/model.safetensors"
    sizes = {"layers": _LAYERS.value, "dim": _DIM.value, "vocab_size": 65536}
    save_file(random_checkpoint("6", **sizes), path)
    return path


def _draw(rows: list[dict], path: str) -> None:
    """Both curves over the length of the conversation."""
    pyplot = plots.pyplot()
    from matplotlib import ticker

    figure, axes = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    lengths = [row["length"] for row in rows]
    for name, label in (("uncached", "whole conversation fed again"), ("cached", "prefix state")):
        axes.plot(lengths, [1000 * row[name] for row in rows], marker="o", label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(lengths, [str(n) for n in lengths], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("tokens of the conversation so far")
    axes.set_ylabel("time to first token, ms")
    axes.grid(alpha=0.3)
    axes.legend()
    plots.save_figure(figure, Path(path))


def _keep(line: dict) -> None:
    """Appends a line to the output file."""
    if _OUTPUT.value:
        with open(_OUTPUT.value, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def main(argv: list[str]) -> None:
    """Measures, prints a table, writes lines and a picture."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, vocab = _CHECKPOINT.value, 256
        if not checkpoint:
            checkpoint, vocab = _random_checkpoint(folder), 65536
        rate = throughput(checkpoint, vocab)
        _keep(rate)
        print(f"{'':34}{'tokens/s':>10}{'server CPU ms/token':>22}")
        for name in ("sequential", "batched", "single_slot"):
            print(f"  {name:32}{rate[name]:10.1f}{rate[name + '_cpu_ms']:22.2f}")
        for name in ("batched_over_sequential", "batched_over_single_slot"):
            print(f"  {name:32}{rate[name]:10.2f}")
        peer = official(checkpoint) if not _CHECKPOINT.value else None
        if peer:
            print(f"  {'official package, sequential':32}{peer['sequential']:10.1f}")
            _keep(peer)
        rows = first_token(checkpoint, vocab) if _LENGTHS.value else []
        if rows:
            print(f"{'time to first token, ms':34}{'cached':>10}{'uncached':>10}")
        for row in rows:
            cached, plain = 1000 * row["cached"], 1000 * row["uncached"]
            print(f"  {row['length']:<32}{cached:10.1f}{plain:10.1f}")
            _keep(row)
    if _PLOT.value and rows:
        _draw(rows, _PLOT.value)


if __name__ == "__main__":
    app.run(main)
