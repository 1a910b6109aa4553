# SPDX-License-Identifier: Apache-2.0
"""The evaluation runner against the loop a user would write: requests a second and CPU time.

    python -m benchmarks.nlp_evaluate [--items=2000] [--output=nlp_evaluate.jsonl]

Both use the official client against the same local server, with 64 requests under way. The loop is
`asyncio.gather` over all items with a semaphore: it keeps no answers on disk and has no limits. The
runner stores every answer durably. A second pass of the runner reads everything from its cache.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging

from nlp.evaluation import runner
from nlp.evaluation.backends.openai_api import Endpoint, OpenAIBackend
from nlp.evaluation.cache import Cache
from nlp.evaluation.records import Request

_ITEMS = flags.DEFINE_integer("items", 2000, "Questions of each pass.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Passes of each kind, in turn; medians are shown.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_CONCURRENCY = 64


def _requests(items: int, tag: str):
    for i in range(items):
        text = f'{tag}: is item {i} "good" or "bad"? ' + "x" * 400
        yield Request("t", str(i), (("user", text),))


async def _plain(url: str, items: int, tag: str) -> int:
    import openai

    client = openai.AsyncOpenAI(api_key="none", base_url=url)
    gate = asyncio.Semaphore(_CONCURRENCY)

    async def one(request: Request) -> str:
        async with gate:
            messages = [{"role": "user", "content": request.messages[0][1]}]
            reply = await client.chat.completions.create(model="m", messages=messages, max_tokens=8)
            return reply.choices[0].message.content or ""

    answers = await asyncio.gather(*(one(r) for r in _requests(items, tag)))
    await client.close()
    return len(answers)


async def _ours(url: str, items: int, tag: str, path: Path) -> int:
    backend = OpenAIBackend(Endpoint("m", url, max_tokens=8))
    with Cache(path) as cache:
        work = runner.Runner(backend, cache, runner.Settings(concurrency=_CONCURRENCY))
        stats = await work.run(_requests(items, tag))
    await backend.close()
    return stats.answered + stats.cached


def _time(name: str, make, items: int) -> dict:
    wall, cpu = time.perf_counter(), time.process_time()
    done = asyncio.run(make())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert done == items, (name, done)
    return {"name": name, "items": items, "items_per_s": items / wall, "cpu_ms": 1e3 * cpu / items}


def main(argv: list[str]) -> None:
    """Prints a table and JSON lines."""
    del argv
    absl_logging.set_verbosity(absl_logging.WARNING)  # the client logs every request
    items, rows = _ITEMS.value, []
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port"
        command = [sys.executable, "tests/nlp/endpoint.py", str(port), str(Path(folder) / "log")]
        server = subprocess.Popen(command)
        try:
            while not port.exists() or not port.read_text():
                time.sleep(0.05)
            url = f"http://127.0.0.1:{port.read_text()}/v1"
            for repeat in range(_REPEATS.value):
                path = Path(folder) / f"cache{repeat}"
                tag = f"ours{repeat}"
                rows.append(_time("runner", lambda: _ours(url, items, tag, path), items))  # noqa: B023
                rows.append(_time("runner, stored", lambda: _ours(url, items, tag, path), items))  # noqa: B023
                rows.append(_time("gather", lambda: _plain(url, items, f"p{repeat}"), items))  # noqa: B023
        finally:
            server.terminate()
            server.wait()
    print(f"{'':16}{'items/s':>10}{'CPU ms/item':>14}")
    lines = []
    for name in ("runner", "runner, stored", "gather"):
        own = sorted((r for r in rows if r["name"] == name), key=lambda r: r["cpu_ms"])
        median = own[len(own) // 2]
        lines.append(json.dumps(median))
        print(f"{name:16}{median['items_per_s']:10.0f}{median['cpu_ms']:14.3f}")
    print("\n".join(lines))
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
