# SPDX-License-Identifier: Apache-2.0
"""Connections on which no request arrives are closed.

uvicorn waits for ever for the head of a request (only the time between two requests is limited), so
a few hundred silent clients would use up the connections that a server allows. Nor does it give up
a connection that is closed but whose client reads nothing. It also bounds a head's size only with
one of its two parsers.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from rwkvjax.serving.errors import ApiError

_HEAD_BYTES = 1 << 18


def punctual(base: type[asyncio.Protocol], seconds: float) -> type[asyncio.Protocol]:
    """A uvicorn HTTP protocol that closes a connection unless a request's head comes in time.

    `seconds` count from the connection or from the end of the answer before; bodies and answers
    have limits of their own.
    """

    class Punctual(base):  # type: ignore[valid-type, misc]
        _due: asyncio.TimerHandle | None = None
        _next_look: asyncio.TimerHandle | None = None
        _left = math.inf  # bytes that a closing connection had to send at the last look
        _unread = 0  # bytes of a head that is not complete

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()
            self._look()

        def _look(self) -> None:
            """Ends a closing connection whose client takes nothing of what is left for it."""
            waiting = self.transport.get_write_buffer_size()
            if self.transport.is_closing() and waiting >= self._left:
                self.transport.abort()
                return
            self._left = waiting if self.transport.is_closing() else math.inf
            self._next_look = asyncio.get_running_loop().call_later(seconds, self._look)

        def data_received(self, data: bytes) -> None:
            self._unread += len(data)
            super().data_received(data)
            if self._in_request():
                self._disarm()
            elif self._unread > _HEAD_BYTES:
                self.transport.abort()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._in_request():  # else the next one was there already
                self._arm()

        def send_400_response(self, message: str) -> None:
            """What is no HTTP gets an error like the others; called by the base."""
            if not self._in_request():
                body = json.dumps(ApiError(400, message).body).encode()
                head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
                head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
                self.transport.write(head.encode() + body)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            if self._next_look is not None:
                self._next_look.cancel()
            super().connection_lost(exc)

        def _in_request(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _arm(self) -> None:
            self._disarm()
            self._due = asyncio.get_running_loop().call_later(seconds, self._close)

        def _disarm(self) -> None:
            self._unread = 0
            if self._due is not None:
                self._due.cancel()
                self._due = None

        def _close(self) -> None:
            if not self._in_request():
                self.transport.abort()

    return Punctual
