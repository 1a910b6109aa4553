# SPDX-License-Identifier: Apache-2.0
import asyncio
import json
import types

import pytest

from rwkvjax.serving.sequence import Output, TokenInfo

pytest.importorskip("starlette")


async def _together(requests):
    yield 0, Output("a", [TokenInfo(97, None)])
    yield 1, Output(finish="stop")
    await asyncio.sleep(60)


def test_sequences_of_clients_that_leave_are_counted():
    from rwkvjax.serving.api import _Endpoint
    from rwkvjax.serving.metrics import Metrics

    metrics, worker = Metrics(), types.SimpleNamespace(together=_together)
    endpoint = _Endpoint("/v1/completions", None, None, worker, metrics, "")

    async def leave():
        outputs = endpoint._outputs(types.SimpleNamespace(requests=[None] * 3))
        assert [(await anext(outputs))[0] for _ in range(2)] == [0, 1]
        await outputs.aclose()

    asyncio.run(leave())
    text = metrics.text().decode()
    assert 'rwkvjax_sequences_total{finish="stop"} 1.0' in text
    assert 'rwkvjax_sequences_total{finish="cancelled"} 2.0' in text


async def _get(app, path):
    """(status, parsed body) without a server; the worker is not started."""
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_names_of_models_may_hold_slashes():
    from rwkvjax.serving.api import make_app

    service = types.SimpleNamespace(options=None, models=lambda: ["org/model", "org/model@x"])
    app = make_app(service, None, None)
    for name in ("org/model", "org/model@x"):
        status, card = asyncio.run(_get(app, f"/v1/models/{name}"))
        assert status == 200 and card["id"] == name
    assert asyncio.run(_get(app, "/v1/models/org"))[0] == 404
