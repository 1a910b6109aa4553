# SPDX-License-Identifier: Apache-2.0
"""The server in a process of its own, asked by the official client, curl and our evaluation."""

import asyncio
import json
import shutil
import subprocess

import numpy as np
import pytest

import rwkvjax
from rwkvjax import sampling
from rwkvjax.sampling import Sampling
from tests.rwkvjax.serving.shared import KEY

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(api_key=KEY, base_url=server.url + "/v1", max_retries=0) as client:
        yield client


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
