# SPDX-License-Identifier: Apache-2.0
"""A small random model whose state matters, a server of it, and a bare HTTP client."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jax
import numpy as np

from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.weights.synthetic import random_checkpoint

CFG = Config(version="6", vocab_size=256, dim=32, layers=2, head_size=8, wkv="scan")
KEY = "secret-key"
SLOTS, WAITING, CACHE_MIB = 8, 300, 0.0625  # a cache for a few entries: hits and misses mix


def random_params(cfg=CFG, seed=0):
    start = jax.jit(lambda: model.init(jax.random.key(seed), cfg))()
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), start)


def run(engine, requests):
    """Runs requests to their end: [(text, token ids, last output)] in order."""
    numbers = [engine.submit(request) for request in requests]
    found = {number: ["", [], None] for number in numbers}
    while engine.busy:
        for number, output in engine.step():
            entry = found[number]
            entry[0] += output.text
            entry[1] += [info.token for info in output.tokens]
            entry[2] = output
    return [tuple(found[number]) for number in numbers]


# --- a server in a process of its own -----------------------------------------------------------


def write_checkpoint(path, **sizes):
    """Official weights of a random byte-level model."""
    from safetensors.numpy import save_file

    sizes = {"layers": 2, "dim": 32, "head_size": 8, "vocab_size": 256} | sizes
    save_file(random_checkpoint("6", **sizes, ranks={"R": 4, "P": 6}), path)


@dataclasses.dataclass
class Server:
    process: subprocess.Popen
    url: str
    port: int

    def metrics(self):
        """Metrics without labels, {name: value}."""
        request = urllib.request.Request(
            self.url + "/metrics", headers={"authorization": f"Bearer {KEY}"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            text = reply.read().decode()
        return {n: float(v) for n, v in re.findall(r"^(\w+) (\S+)$", text, re.M)}

    def wait_idle(self, seconds=60):
        """Waits until no sequence is there any more; returns the metrics."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.metrics()
            if found["rwkvjax_running"] == found["rwkvjax_waiting"] == 0:
                return found
            time.sleep(0.1)
        raise AssertionError(f"still busy after {seconds} s: {found}")


@contextlib.contextmanager
def serving(repo, checkpoint, *flags):
    """Starts `python -m rwkvjax.serve` and yields it when it listens."""
    command = [sys.executable, "-m", "rwkvjax.serve", f"--checkpoint={checkpoint}", "--port=0"]
    env = os.environ | {"RWKVJAX_API_KEY": KEY, "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, *flags], cwd=repo, env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, f"the server said {line!r} and ended with {process.poll()}"
        port = int(found.group(1))
        yield Server(process, f"http://127.0.0.1:{port}", port)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


async def open_stream(port, path, body, key=KEY):
    """Sends a POST and returns (reader, writer); see `read_events`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def read_status(reader):
    """Status of an answer, with its headers read."""
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1])


async def read_events(reader):
    """Yields the parsed events of a stream (chunked transfer encoding is skipped over)."""
    async for line in reader:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def post(server, path, data, headers=None):
    """(status, parsed body) of a raw request."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"} | (
        headers or {}
    )
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    request = urllib.request.Request(server.url + path, data, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
