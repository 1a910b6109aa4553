# SPDX-License-Identifier: Apache-2.0
import asyncio
import json
import types

import pytest

pytest.importorskip("starlette")


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
