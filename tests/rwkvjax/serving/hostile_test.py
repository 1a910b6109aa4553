# SPDX-License-Identifier: Apache-2.0
"""Malformed, oversized and hostile requests get a 4xx with a JSON error."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest

from tests.rwkvjax.serving.shared import SLOTS, WAITING, open_stream, post, read_status

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
        ("/v1/completions", _GOOD | {"logprobs": 20, "n": 64, "max_tokens": 3000}, 400),
        ("/v1/completions", _GOOD | {"logprobs": 20, "n": 64, "prompt": "a" * 999, "echo": 1}, 400),
        ("/v1/completions", _GOOD | {"top_k": None, "min_p": None, "typical_p": None}, 200),
        ("/v1/embeddings", {"model": "rwkv", "input": "a", "encoding_format": None}, 200),
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
        ("/v1/chat/completions", _CHAT | {"max_completion_tokens": 0}, 400),
        ("/v1/embeddings", {"model": "rwkv", "input": ""}, 200),
        ("/v1/embeddings", {"model": "rwkv", "input": [[300]]}, 400),
        ("/v1/embeddings", {"model": "rwkv", "input": "a", "dimensions": 3}, 400),
        ("/v1/nothing", _GOOD, 404),
        ("/health", _GOOD, 405),
    ],
)
def test_bad_bodies_get_json_errors(server, path, body, status):
    found, reply = post(server, path, body)
    assert found == status, reply
    if status >= 400:
        assert set(reply["error"]) == {"message", "type", "param", "code"}
        assert len(reply["error"]["message"]) < 600
        assert "Traceback" not in reply["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [-1] * 100_000},
        {"prompt": [[-1] * 100_000]},
        {"prompt": "a", "logit_bias": {f"x{i}": 1 for i in range(50_000)}},
    ],
    ids=["ids", "lists", "biases"],
)
def test_a_million_mistakes_are_not_listed(fields):
    """The error of each took seconds of the event loop and a gigabyte together."""
    pydantic = pytest.importorskip("pydantic")
    from rwkvjax.serving import errors, schema

    with pytest.raises(pydantic.ValidationError) as caught:
        schema.CompletionRequest.model_validate({"model": "rwkv"} | fields)
    count = caught.value.error_count()
    message = errors.from_validation(caught.value).message
    assert count < 10 or message == f"{count} values of the body are not valid"


def test_bad_headers_get_json_errors(server):
    assert post(server, "/v1/completions", _GOOD, {"authorization": "Bearer wrong"})[0] == 401
    assert post(server, "/v1/completions", _GOOD, {"authorization": "\xff"})[0] == 401
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert post(server, "/v1/completions", _GOOD, form)[0] == 415
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
