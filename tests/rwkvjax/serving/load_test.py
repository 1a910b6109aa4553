# SPDX-License-Identifier: Apache-2.0
"""Many streams at once, clients that leave, and the end of a server."""

import asyncio
import random
import signal

import psutil
import pytest

from tests.rwkvjax.serving.shared import (
    CACHE_MIB,
    open_stream,
    read_events,
    read_status,
    serving,
)


async def _one(server, body, leave_after, gate):
    """Text of a stream, or None when left early."""
    async with gate:
        reader, writer = await open_stream(server.port, "/v1/completions", body)
        try:
            assert await read_status(reader) == 200
            text, finish = "", None
            async for event in read_events(reader):
                for choice in event["choices"]:
                    text += choice["text"]
                    finish = choice["finish_reason"] or finish
                if leave_after is not None and len(text) >= leave_after:
                    return None
            return text if finish else f"cut off: {text}"
        finally:
            writer.close()


def _load(server, total, concurrency, kinds):
    rng = random.Random(0)
    bodies = [
        {
            "model": rng.choice(["rwkv", "rwkv@tuned", "rwkv@low"]) if i % 4 == 0 else "rwkv",
            "prompt": [rng.randrange(1, 256) for _ in range(rng.randrange(1, 60))],
            "max_tokens": rng.randrange(1, 40),
            "temperature": 0,
            "stream": True,
        }
        for i in range(kinds)
    ]

    async def alone():
        gate = asyncio.Semaphore(1)
        return [await _one(server, body, None, gate) for body in bodies]

    async def together():
        gate = asyncio.Semaphore(concurrency)
        picks = [rng.randrange(kinds) for _ in range(total)]
        leave = [rng.randrange(1, 10) if rng.random() < 0.25 else None for _ in picks]
        tasks = [_one(server, bodies[k], at, gate) for k, at in zip(picks, leave, strict=True)]
        return picks, await asyncio.gather(*tasks)

    expected = asyncio.run(alone())
    picks, found = asyncio.run(together())
    left = sum(text is None for text in found)
    wrong = [k for k, text in zip(picks, found, strict=True) if text not in (None, expected[k])]
    assert not wrong, f"{len(wrong)} of {total} differ from the single request"
    assert total / 20 < left < total / 2
    metrics = server.wait_idle()
    assert metrics["rwkvjax_cache_bytes"] <= CACHE_MIB * 2**20
    assert metrics["rwkvjax_cache_evictions_total"] > 0
    return metrics


def test_load_of_streams_with_disconnects(server):
    """Outputs equal those of single requests, token for token; nothing stays behind."""
    _load(server, total=200, concurrency=120, kinds=24)
    memory = psutil.Process(server.process.pid).memory_info().rss
    _load(server, total=200, concurrency=120, kinds=24)
    grown = psutil.Process(server.process.pid).memory_info().rss - memory
    assert grown < 64 << 20, f"{grown >> 20} MiB more after 200 requests"


@pytest.mark.slow
def test_load_of_thousands(server, request):
    if "slow" not in (request.config.getoption("markexpr") or ""):
        pytest.skip("takes a minute or two; run with -m slow")
    _load(server, total=1000, concurrency=300, kinds=40)
    process = psutil.Process(server.process.pid)
    memory = process.memory_info().rss
    for _ in range(4):
        metrics = _load(server, total=1000, concurrency=300, kinds=40)
    grown = process.memory_info().rss - memory
    hits, asked = metrics["rwkvjax_cache_hits_total"], metrics["rwkvjax_sequence_seconds_count"]
    print(f"{grown / 2**20:.1f} MiB more, {hits:.0f} hits, {asked:.0f} sequences ended")
    assert grown < 64 << 20
    assert process.num_threads() < 200 and process.num_fds() < 100


async def _drain(server):
    """Finish reason of a stream during which the server is told to stop."""
    body = {"model": "rwkv", "prompt": "a", "max_tokens": 400, "temperature": 0}
    reader, writer = await open_stream(
        server.port,
        "/v1/completions",
        body | {"stream": True, "max_tokens": 800, "logit_bias": {"0": -100}},
    )
    assert await read_status(reader) == 200
    await reader.readline()
    server.process.send_signal(signal.SIGTERM)
    finish = None
    async for event in read_events(reader):
        finish = event["choices"][0]["finish_reason"] or finish
    writer.close()
    with pytest.raises(OSError):
        await open_stream(server.port, "/v1/completions", body)
    return finish


def test_sigterm_lets_running_requests_finish(repo, folder):
    pytest.importorskip("uvicorn")
    flags = ("--slots=2", "--prefill_chunk=16", "--max_tokens=3000")
    with serving(repo, folder / "model.safetensors", *flags) as server:
        assert asyncio.run(_drain(server)) == "length"
        assert server.process.wait(30) == 0
