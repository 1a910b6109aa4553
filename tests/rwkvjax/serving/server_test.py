# SPDX-License-Identifier: Apache-2.0
"""The server in a process of its own: official client, curl, hostile requests, load, drain."""

import asyncio
import json
import random
import shutil
import signal
import subprocess
import urllib.error
import urllib.request

import numpy as np
import psutil
import pytest

import rwkvjax
from rwkvjax import sampling
from rwkvjax.finetune import Adapter, save_adapter
from rwkvjax.sampling import Sampling
from tests.rwkvjax.serving.shared import (
    KEY,
    open_stream,
    read_events,
    read_status,
    serving,
    write_checkpoint,
)

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

SLOTS, WAITING, CACHE_MIB = 8, 300, 0.0625  # a cache for a few entries: hits and misses mix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_checkpoint(folder / "model.safetensors")
    (folder / "adapters").mkdir()
    rng = np.random.default_rng(0)
    tuned = {
        f"blocks.{i}.att.time_state": rng.normal(size=(4, 8, 8)).astype(np.float32)
        for i in range(2)
    }
    save_adapter(folder / "adapters" / "tuned.safetensors", Adapter("state", tuned))
    factors = {
        "lora_A": rng.normal(size=(2, 32)).astype(np.float32),
        "lora_B": rng.normal(size=(32, 2)).astype(np.float32),
    }
    low = {f"blocks.0.att.value.{name}": value for name, value in factors.items()}
    save_adapter(folder / "adapters" / "low.safetensors", Adapter("lora", low, 1.0))
    return folder


@pytest.fixture(scope="module")
def server(repo, folder):
    flags = (
        f"--slots={SLOTS}",
        "--prefill_chunk=16",
        f"--cache_mib={CACHE_MIB}",
        f"--max_waiting={WAITING}",
        "--max_prompt_tokens=2000",
        "--max_tokens=3000",
        f"--adapters={folder / 'adapters'}",
    )
    with serving(repo, folder / "model.safetensors", *flags) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(api_key=KEY, base_url=server.url + "/v1", max_retries=0) as client:
        yield client


def _post(server, path, data, headers=None):
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


# --- the official client ------------------------------------------------------------------------


def test_completions(client, folder):
    reply = client.completions.create(
        model="rwkv", prompt="abc", max_tokens=12, temperature=0, logprobs=3
    )
    cfg, params = rwkvjax.load(folder / "model.safetensors")
    plain = sampling.generate(params, cfg, [list(b"abc")], 12, Sampling(0.0))[0]
    choice = reply.choices[0]
    assert choice.text == bytes(plain.astype(np.uint8)).decode("utf-8", "replace")
    assert choice.finish_reason == "length"
    assert reply.usage.prompt_tokens == 3 and reply.usage.completion_tokens == 12
    assert len(choice.logprobs.token_logprobs) == 12
    for value, top in zip(
        choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        assert value == max(top.values())  # the most likely token was taken
    ids = client.completions.create(model="rwkv", prompt=list(b"abc"), max_tokens=12, temperature=0)
    assert ids.choices[0].text == choice.text


def test_several_prompts_and_choices(client):
    ask = lambda **more: client.completions.create(
        model="rwkv", prompt=["ab", "xyz"], max_tokens=6, n=2, seed=5, top_p=1, **more
    )
    first, second = ask(), ask()
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in second.choices]  # the seed decides
    assert len(set(texts)) == 4 and [c.index for c in first.choices] == [0, 1, 2, 3]
    assert first.usage.prompt_tokens == 5 and first.usage.completion_tokens == 24
    streamed = [""] * 4
    for chunk in ask(stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts


def test_echo_gives_the_prompt_s_log_probabilities(client):
    reply = client.completions.create(
        model="rwkv", prompt="hello", max_tokens=0, echo=True, logprobs=0
    )
    (choice,) = reply.choices
    assert choice.text == "hello"
    assert choice.logprobs.tokens == list("hello")
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in choice.logprobs.token_logprobs[1:])
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]


def test_chat_and_its_stream_agree(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n\n!"}]
    ask = lambda **more: client.chat.completions.create(
        model="rwkv", messages=messages, max_tokens=15, temperature=0, **more
    )
    whole = ask(logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.role == "assistant"
    entry = whole.choices[0].logprobs.content[0]
    assert len(entry.top_logprobs) == 2 and len(entry.bytes) == 1
    parts, usage = [], None
    for chunk in ask(stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        parts += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens
    prompt = "System: Be brief.\n\nUser: Hi\n!\n\nAssistant:"
    assert whole.usage.prompt_tokens == len(prompt)
    assert usage.prompt_tokens_details.cached_tokens == len(prompt)  # the second time


def test_stop_strings(client):
    ask = lambda **more: client.completions.create(
        model="rwkv", prompt="q", max_tokens=40, temperature=0, **more
    )
    text = ask().choices[0].text
    stop = text[5:7]
    cut = ask(stop=[stop, "never there"]).choices[0]
    assert cut.text == text[: text.index(stop)] and cut.finish_reason == "stop"


def test_response_formats(client):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    for seed in range(3):
        reply = client.chat.completions.create(
            model="rwkv",
            messages=[{"role": "user", "content": "?"}],
            response_format=wanted,
            max_tokens=200,
            seed=seed,
            extra_body={"top_k": 50},
        )
        assert reply.choices[0].finish_reason == "stop"
        found = json.loads(reply.choices[0].message.content)
        assert set(found) == {"age"} and 0 <= found["age"] <= 99
    digits = client.completions.create(
        model="rwkv",
        prompt="a",
        max_tokens=9,
        extra_body={"response_format": {"type": "regex", "regex": "[0-9]{4}"}},
    )
    assert digits.choices[0].text.isdigit() and len(digits.choices[0].text) == 4


def test_models_and_adapters(client, folder):
    assert [m.id for m in client.models.list().data] == ["rwkv", "rwkv@low", "rwkv@tuned"]
    assert client.models.retrieve("rwkv@tuned").id == "rwkv@tuned"
    cfg, params = rwkvjax.load(folder / "model.safetensors")
    ask = lambda model: client.completions.create(
        model=model, prompt="abc", max_tokens=10, temperature=0, logprobs=0
    )
    texts = {model: ask(model).choices[0].text for model in ("rwkv", "rwkv@low", "rwkv@tuned")}
    assert len(set(texts.values())) == 3
    for name in ("low", "tuned"):
        adapter = rwkvjax.finetune.load_adapter(folder / "adapters" / f"{name}.safetensors")
        plain = sampling.generate(
            adapter.apply(cfg, params),
            cfg,
            [list(b"abc")],
            10,
            Sampling(0.0),
            state=adapter.initial_state(cfg, 1),
        )
        expected = bytes(plain[0].astype(np.uint8)).decode("utf-8", "replace")
        assert texts[f"rwkv@{name}"] == expected
    with pytest.raises(openai.NotFoundError):
        ask("rwkv@none")
    with pytest.raises(openai.NotFoundError):
        ask("gpt-4")


def test_embeddings(client):
    reply = client.embeddings.create(model="rwkv", input=["one", "another", "one"])
    vectors = [np.array(entry.embedding) for entry in reply.data]
    assert all(np.linalg.norm(v) == pytest.approx(1, abs=1e-5) for v in vectors)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert vectors[0] @ vectors[1] < 0.999 and reply.usage.prompt_tokens == 13
    plain = client.embeddings.create(model="rwkv", input="one", encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, vectors[0], atol=1e-6)


def test_curl(server):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    body = {"model": "rwkv", "prompt": "abc", "max_tokens": 3, "temperature": 0, "stream": True}
    command = ["curl", "-sN", server.url + "/v1/completions", "-d", json.dumps(body)]
    command += ["-H", "content-type: application/json", "-H", f"authorization: Bearer {KEY}"]
    out = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.decode()
    events = [line for line in out.splitlines() if line]
    assert events[-1] == "data: [DONE]" and all(e.startswith("data: ") for e in events)
    assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "length"
    health = ["curl", "-s", server.url + "/health"]
    out = subprocess.run(health, capture_output=True, timeout=60, check=True).stdout
    assert json.loads(out) == {"status": "ok"}


def test_the_evaluation_s_own_client(server):
    """nlp.evaluation asks this server as it asks any other endpoint."""
    from nlp.evaluation.backends.openai_api import Endpoint, OpenAIBackend
    from nlp.evaluation.records import Request

    async def ask(**more):
        endpoint = Endpoint("rwkv", server.url + "/v1", max_tokens=5, **more)
        backend = OpenAIBackend(endpoint, KEY)
        (reply,) = await backend.answer([Request("t", "1", (("user", "good or bad?"),))])
        (long,) = await backend.answer([Request("t", "2", (("user", "x" * 5000),))])
        await backend.close()
        return reply, long

    for more in ({}, {"stream": True}, {"endpoint": "completions", "seed": 3}):
        reply, long = asyncio.run(ask(**more))
        assert reply.status == "ok" and reply.finish in ("length", "stop")
        assert not reply.estimated
        assert long.status == "too_long"


# --- hostile and malformed requests -------------------------------------------------------------

_GOOD = {"model": "rwkv", "prompt": "a", "max_tokens": 1}
_CHAT = {"model": "rwkv", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/v1/completions", b"", 400),
        ("/v1/completions", b"not json", 400),
        ("/v1/completions", b"[" * 100_000, 400),
        ("/v1/completions", b'{"a":' * 50_000, 400),
        ("/v1/completions", b"\xff\xfe\x00", 400),
        ("/v1/completions", b'{"model": "rwkv", "prompt": "\\ud800"}', 400),
        (
            "/v1/completions",
            b'{"model": "rwkv", "prompt": "a", "seed": 1' + b"0" * 9000 + b"}",
            400,
        ),
        ("/v1/completions", b'{"model": "rwkv", "prompt": "a", "temperature": NaN}', 400),
        ("/v1/completions", b"x" * (5 << 20), 413),
        ("/v1/completions", [], 400),
        ("/v1/completions", {"prompt": "a"}, 400),
        ("/v1/completions", _GOOD | {"model": "x" * 300}, 400),
        ("/v1/completions", _GOOD | {"model": "rwkv@../../etc/passwd"}, 404),
        ("/v1/completions", _GOOD | {"prompt": []}, 400),
        ("/v1/completions", _GOOD | {"prompt": [256]}, 400),
        ("/v1/completions", _GOOD | {"prompt": [-1]}, 400),
        ("/v1/completions", _GOOD | {"prompt": [1.5]}, 400),
        ("/v1/completions", _GOOD | {"prompt": [[1], []]}, 400),
        ("/v1/completions", _GOOD | {"prompt": ["a"] * 65}, 400),
        ("/v1/completions", _GOOD | {"prompt": "a" * 2001}, 400),
        ("/v1/completions", _GOOD | {"max_tokens": -1}, 400),
        ("/v1/completions", _GOOD | {"max_tokens": 0}, 400),
        ("/v1/completions", _GOOD | {"max_tokens": 10**9}, 400),
        ("/v1/completions", _GOOD | {"max_tokens": "5"}, 400),
        ("/v1/completions", _GOOD | {"temperature": -1}, 400),
        ("/v1/completions", _GOOD | {"temperature": 1e300}, 400),
        ("/v1/completions", _GOOD | {"top_p": 1.5}, 400),
        ("/v1/completions", _GOOD | {"n": 65}, 400),
        ("/v1/completions", _GOOD | {"n": 0}, 400),
        ("/v1/completions", _GOOD | {"prompt": ["a"] * 10, "n": 10}, 400),
        ("/v1/completions", _GOOD | {"logprobs": 21}, 400),
        ("/v1/completions", _GOOD | {"stop": ["a"] * 17}, 400),
        ("/v1/completions", _GOOD | {"stop": ""}, 400),
        ("/v1/completions", _GOOD | {"logit_bias": {"x": 1}}, 400),
        ("/v1/completions", _GOOD | {"logit_bias": {"256": 1}}, 400),
        ("/v1/completions", _GOOD | {"logit_bias": {"1": 1e9}}, 400),
        ("/v1/completions", _GOOD | {"suffix": "x"}, 400),
        ("/v1/completions", _GOOD | {"response_format": {"type": "regex", "regex": "("}}, 400),
        ("/v1/completions", _GOOD | {"response_format": {"type": "json_schema"}}, 400),
        (
            "/v1/completions",
            _GOOD | {"response_format": {"type": "regex", "regex": "a" * 200_000}},
            400,
        ),
        (
            "/v1/completions",
            _GOOD | {"response_format": {"type": "regex", "regex": "((a{1000}){1000}){1000}"}},
            400,
        ),
        ("/v1/chat/completions", {"model": "rwkv", "messages": []}, 400),
        ("/v1/chat/completions", _CHAT | {"messages": [{"role": "tool", "content": "a"}]}, 400),
        ("/v1/chat/completions", _CHAT | {"messages": [{"role": "user"}]}, 400),
        ("/v1/chat/completions", _CHAT | {"messages": "hi"}, 400),
        ("/v1/chat/completions", _CHAT | {"tools": [{"type": "function"}]}, 400),
        ("/v1/chat/completions", _CHAT | {"top_logprobs": 3}, 400),
        ("/v1/embeddings", {"model": "rwkv", "input": ""}, 200),
        ("/v1/embeddings", {"model": "rwkv", "input": [[300]]}, 400),
        ("/v1/embeddings", {"model": "rwkv", "input": "a", "dimensions": 3}, 400),
        ("/v1/nothing", _GOOD, 404),
        ("/health", _GOOD, 405),
    ],
)
def test_bad_bodies_get_json_errors(server, path, body, status):
    found, reply = _post(server, path, body)
    assert found == status, reply
    if status >= 400:
        assert set(reply["error"]) == {"message", "type", "param", "code"}
        assert len(reply["error"]["message"]) < 600
        assert "Traceback" not in reply["error"]["message"]


def test_bad_headers_get_json_errors(server):
    assert _post(server, "/v1/completions", _GOOD, {"authorization": "Bearer wrong"})[0] == 401
    assert _post(server, "/v1/completions", _GOOD, {"authorization": "\xff"})[0] == 401
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert _post(server, "/v1/completions", _GOOD, form)[0] == 415
    for path in ("/v1/models", "/metrics"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(server.url + path, timeout=60)
        caught.value.close()
        assert caught.value.code == 401


def test_a_full_server_says_so(server):
    """More sequences than slots and queue: 429 with a JSON error, and no harm to the others."""
    body = _GOOD | {"max_tokens": 2000, "stream": True, "n": 64}

    async def flood():
        streams, statuses = [], []
        for _ in range((SLOTS + WAITING) // 64 + 1):
            reader, writer = await open_stream(server.port, "/v1/completions", body)
            streams.append((reader, writer))
            statuses.append(await read_status(reader))
        rest = await streams[-1][0].read()
        for _, writer in streams:
            writer.close()
        return statuses, rest

    statuses, rest = asyncio.run(flood())
    assert statuses == [200] * 4 + [429]
    assert json.loads(rest)["error"]["code"] == "busy"
    server.wait_idle()


# --- load ---------------------------------------------------------------------------------------


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


# --- the end ------------------------------------------------------------------------------------


def test_sigterm_lets_running_requests_finish(server):
    """Keep last: it ends the server of this module."""

    async def drain():
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

    assert asyncio.run(drain()) == "length"
    assert server.process.wait(30) == 0
