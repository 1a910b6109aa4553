# SPDX-License-Identifier: Apache-2.0
"""A small OpenAI-compatible server for tests, on 127.0.0.1 only, that misbehaves on request.

A `plan` decides what happens to each attempt: "ok", "429" (with Retry-After), "500", "hang", "drop"
(connection cut inside the body), "truncated" (valid HTTP, broken JSON), "null" (null content),
"no_usage", "slow_stream", "cut_stream", "error_200", "too_long", "moderated", "unauthorized",
"html".

As a program, `python endpoint.py PORT_FILE LOG_FILE [DELAY]` serves until killed and logs one JSON
line for each request.
"""

import asyncio
import collections
import hashlib
import json
import sys
import threading
import time


def answer_to(prompt):
    """The server's answer: a list with the first quoted string of the prompt, chosen by hash."""
    names = [part for part in prompt.split('"')[1::2] if part][:2] or ["x"]
    number = hashlib.sha256(prompt.encode()).digest()[0]
    return f'["{names[number % len(names)]}"]'


class Endpoint:
    """Serves in a thread of its own. `plan(prompt, attempt)` names what happens."""

    def __init__(
        self, plan=None, delay=0.0, answer=answer_to, retry_after="1", log=None, delays=None
    ):
        self.plan = plan or (lambda prompt, attempt: "ok")
        self.delay, self.answer, self.retry_after, self.delays = delay, answer, retry_after, delays
        self.requests = []  # (seconds, prompt, what happened)
        self.bodies = []
        self.headers = []
        self.attempts = collections.Counter()
        self.answered = collections.Counter()
        self.active = self.most_active = 0
        self._log = open(log, "a", buffering=1) if log else None
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        if self._log:
            self._log.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self):
        self._stop = asyncio.Event()
        self._tasks = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _request(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        prompt = body["messages"][0]["content"] if "messages" in body else body.get("prompt", "")
        self.attempts[prompt] += 1
        what = self.plan(prompt, self.attempts[prompt])
        self.requests.append((time.monotonic(), prompt, what))
        self.bodies.append(body)
        self.headers.append(dict(line.split(": ", 1) for line in lines[1:] if ": " in line))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            return await self._behave(writer, what, prompt, body)
        finally:
            self.active -= 1
            if self._log:
                self._log.write(
                    json.dumps([time.time(), what, hashlib.md5(prompt.encode()).hexdigest()]) + "\n"
                )

    async def _behave(self, writer, what, prompt, body):
        await asyncio.sleep(self.delays(prompt) if self.delays else self.delay)
        error = lambda text, code=None: json.dumps(
            {"error": {"message": text, "type": "t", "code": code}}
        )
        if what == "hang":
            await asyncio.sleep(30)
        if what == "429":
            return self._send(writer, error("Rate limit"), 429, {"Retry-After": self.retry_after})
        if what == "500":
            return self._send(writer, error("boom"), 500)
        if what == "unauthorized":
            sent = self.headers[-1].get("Authorization", self.headers[-1].get("authorization", ""))
            return self._send(writer, error(f"Incorrect API key provided: {sent}"), 401)
        if what == "too_long":
            return self._send(
                writer, error("maximum context length is 8", "context_length_exceeded"), 400
            )
        if what == "moderated":
            return self._send(writer, error("this model requires moderation: flagged"), 403)
        if what == "error_200":
            return self._send(writer, error("overloaded"), 200)
        if what == "html":
            return self._send(writer, "<html>proxy</html>", 200, {"Content-Type": "text/html"})
        if what in ("slow_stream", "cut_stream") or body.get("stream"):
            return await self._stream(writer, what, prompt, body)
        text = self.answer(prompt)
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
        choice |= (
            {"message": {"role": "assistant", "content": None if what == "null" else text}}
            if ("messages" in body)
            else {"text": text}
        )
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 4, "total_tokens": 0}
        reply = {
            "id": "r",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
        }
        if what != "no_usage":
            reply["usage"] = usage
        data = json.dumps(reply)
        if what == "truncated":
            return self._send(writer, data[: len(data) // 2])
        if what == "drop":
            self._send(writer, data, cut=len(data) // 2)
            return False
        self.answered[prompt] += 1
        return self._send(writer, data)

    def _send(self, writer, text, status=200, headers=None, cut=None):
        data = text.encode()
        extra = {"Content-Type": "application/json", **(headers or {})}
        lines = "".join(f"{k}: {v}\r\n" for k, v in extra.items())
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{lines}\r\n"
        writer.write(head.encode() + data[:cut])
        return True

    async def _stream(self, writer, what, prompt, body):
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        send = lambda data: writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        piece = lambda delta, finish=None: (
            b"data: "
            + json.dumps(
                {
                    "id": "r",
                    "object": "chat.completion.chunk",
                    "created": 0,
                    "model": "m",
                    "choices": [{"index": 0, "delta": {"content": delta}, "finish_reason": finish}],
                },
                ensure_ascii=False,
            ).encode()
            + b"\n\n"
        )
        text = self.answer(prompt)
        send(b": keep-alive\n\n")
        for number, character in enumerate(text):
            event = piece(character)
            for start in range(0, len(event), 7):  # cuts characters of several bytes
                send(event[start : start + 7])
            if what == "slow_stream":
                await writer.drain()
                await asyncio.sleep(0.3)
            if what == "cut_stream" and number == 2:
                writer.write(b"0\r\n\r\n")
                return True
        send(piece("", "stop"))
        send(
            b'data: {"id":"r","object":"chat.completion.chunk","created":0,"model":"m",'
            b'"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\n'
        )
        send(b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        self.answered[prompt] += 1
        return True


if __name__ == "__main__":
    port_file, log_file, delay = sys.argv[1], sys.argv[2], float((sys.argv[3:] or ["0"])[0])
    with Endpoint(delay=delay, log=log_file) as server:
        with open(port_file, "w") as f:
            f.write(str(server.port))
        while True:
            time.sleep(1)
