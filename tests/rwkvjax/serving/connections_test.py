# SPDX-License-Identifier: Apache-2.0
"""Clients that connect and ask late, never or not in HTTP."""

import asyncio
import contextlib
import json
import socket

import pytest

from rwkvjax.serving.connections import punctual

uvicorn = pytest.importorskip("uvicorn")


async def _app(scope, receive, send):
    await asyncio.sleep(0.6)  # longer than a head may take
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


async def _ask(port, *parts):
    """What the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_connections():
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    head = b"GET / HTTP/1.1\r\nhost: a\r\n"

    async def main():
        config = uvicorn.Config(
            _app, port=0, http=punctual(AutoHTTPProtocol, 0.3), lifespan="off", log_level="critical"
        )
        server = uvicorn.Server(config)
        task = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        found = await asyncio.gather(
            _ask(port),
            _ask(port, head),
            _ask(port, head, b"x: " + b"a" * (1 << 20)),
            _ask(port, head + b"\r\n"),
            _ask(port, head + b"\r\n", head),  # half a request behind a whole one
            _ask(port, b"GARBAGE\r\n\r\n"),
            _ask(port, 2 * (head + b"\r\n")),
        )
        server.should_exit = True
        await task
        return found

    silent, half, large, whole, behind, garbage, two = asyncio.run(main())
    assert silent == half == b""
    assert b"200 OK" not in large
    assert whole.endswith(b"ok") and whole.count(b"200 OK") == 1
    assert behind.count(b"200 OK") == 1
    head, _, body = garbage.partition(b"\r\n\r\n")
    assert b" 400 " in head and b"application/json" in head
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert two.count(b"200 OK") == 2


def test_closed_connections_do_not_wait_for_clients_that_read_nothing():
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    async def flood(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await send(part)

    async def main():
        config = uvicorn.Config(
            flood,
            port=0,
            http=punctual(AutoHTTPProtocol, 0.2),
            lifespan="off",
            log_level="critical",
        )
        server = uvicorn.Server(config)
        task = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        address = server.servers[0].sockets[0].getsockname()
        with socket.create_connection(address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            while not server.server_state.connections:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(10):
                while server.server_state.connections:
                    await asyncio.sleep(0.05)
        server.should_exit = True
        await task

    asyncio.run(main())
