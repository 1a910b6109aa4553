# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: routes, bodies, authorisation, streams.

    POST /v1/completions  /v1/chat/completions  /v1/embeddings
    GET  /v1/models  /v1/models/NAME  /health  /metrics

Every error is JSON in the words of the OpenAI interface. A client that goes away cancels its
sequences at the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rwkvjax.serving import render
from rwkvjax.serving.errors import ApiError, from_validation
from rwkvjax.serving.metrics import Metrics
from rwkvjax.serving.schema import ChatRequest, CompletionRequest, EmbeddingRequest
from rwkvjax.serving.sequence import Output
from rwkvjax.serving.service import Job, Service
from rwkvjax.serving.worker import Busy, Worker

_log = logging.getLogger("rwkvjax.serving")
_GRACE = 30.0  # seconds for a client to take in the rest of an answer
_DISCARD = 8  # times the largest body
_NO_STORE = (b"cache-control", b"no-store")


def make_app(service: Service, worker: Worker, metrics: Metrics, api_key: str = "") -> Starlette:
    """The application; its lifespan starts and stops the worker."""
    started = int(time.time())

    def model_card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "local"}

    async def models(request: HttpRequest) -> Response:
        _authorise(request.scope, api_key)
        names = await asyncio.to_thread(service.models)
        wanted = request.path_params.get("name")
        if wanted is None:
            return JSONResponse({"object": "list", "data": [model_card(n) for n in names]})
        if wanted not in names:
            raise ApiError(404, "the model does not exist", "model_not_found", "model")
        return JSONResponse(model_card(wanted))

    async def health(request: HttpRequest) -> Response:
        status = "failed" if not worker.alive else "stopping" if worker.draining else "ok"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    async def exposition(request: HttpRequest) -> Response:
        _authorise(request.scope, api_key)
        return Response(metrics.text(), media_type=metrics.content_type)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        await worker.stop()

    post = lambda path, schema: Route(
        path, _Endpoint(path, schema, service, worker, metrics, api_key), methods=["POST"]
    )
    get = lambda path, handler: Route(path, handler, methods=["GET"])
    return Starlette(
        routes=[
            post("/v1/completions", CompletionRequest),
            post("/v1/chat/completions", ChatRequest),
            post("/v1/embeddings", EmbeddingRequest),
            get("/v1/models", models),
            get("/v1/models/{name:path}", models),  # names may hold slashes
            get("/health", health),
            get("/metrics", exposition),
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _defect},
        lifespan=lifespan,
    )


async def _api_error(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _http_error(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return JSONResponse(ApiError(error.status_code, error.detail).body, error.status_code, headers)


async def _defect(request: HttpRequest, error: Exception) -> Response:
    return JSONResponse(ApiError(500, "internal error").body, 500)


def _authorise(scope: Scope, api_key: str) -> None:
    if not api_key:
        return
    given = dict(scope["headers"]).get(b"authorization", b"")
    if not hmac.compare_digest(given, b"Bearer " + api_key.encode()):
        raise ApiError(401, "a valid API key is needed", "invalid_api_key")


async def _read_body(scope: Scope, receive: Receive, most: int, seconds: float) -> bytes:
    """The whole body; ApiError if it is too large, too slow or not JSON by its own account."""
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":  # this also keeps out forms that web pages post
        raise ApiError(415, "the content type must be application/json")
    announced = headers.get(b"content-length", b"0")
    bearable = _DISCARD * most  # read and thrown away, so that the client gets to see the answer
    if announced.isdigit() and int(announced) > bearable:
        raise _too_large(most)
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(seconds):
            while more and size <= bearable:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                size += len(message.get("body", b""))
                if size <= most:
                    parts.append(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        close = {"connection": "close"}
        raise ApiError(408, "the body did not arrive in time", headers=close) from None
    if size > most:
        raise _too_large(most)
    return b"".join(parts)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"a body has at most {most} bytes", headers={"connection": "close"})


class _Gone(Exception):
    """The client went away."""


class _Endpoint:
    """A POST route as an ASGI application of its own, so that nothing outlives its client."""

    def __init__(
        self,
        path: str,
        schema: type[BaseModel],
        service: Service,
        worker: Worker,
        metrics: Metrics,
        api_key: str,
    ):
        self._path, self._schema, self._service = path, schema, service
        self._worker, self._metrics, self._key = worker, metrics, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 499  # the client left before an answer

        async def noting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noting)
        except ApiError as error:
            await _send_json(noting, error.status, error.body, error.headers)
        except _Gone:
            pass
        finally:
            self._metrics.request(self._path, status)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        _authorise(scope, self._key)
        options = self._service.options
        raw = await _read_body(scope, receive, options.max_body_bytes, options.body_seconds)
        try:
            body = self._schema.model_validate_json(raw)
        except ValidationError as error:
            raise from_validation(error) from None
        del raw
        job = await self._service.prepare(body)
        try:
            reservation = self._worker.reserve(len(job.requests))
        except Busy as error:
            status = 503 if self._worker.draining or self._worker.failure else 429
            raise ApiError(status, str(error), "busy", headers={"retry-after": "1"}) from None
        with reservation:
            answer = self._stream if job.stream else self._whole
            try:
                async with asyncio.timeout(options.timeout + _GRACE):
                    await _until_gone(receive, lambda: answer(job, scope, send))
            except TimeoutError:  # a client that does not read what it asked for
                raise _Gone from None

    async def _outputs(self, job: Job) -> AsyncGenerator[tuple[int, Output], None]:
        """(index, output) of all sequences of a job as they come, with their times."""
        arrived = time.monotonic()
        first = set(range(len(job.requests)))
        left = len(first)
        try:
            async with contextlib.aclosing(self._worker.together(job.requests)) as outputs:
                async for index, output in outputs:
                    if index in first and (output.tokens or output.embedding is not None):
                        first.discard(index)
                        self._metrics.first_token(time.monotonic() - arrived)
                    if output.finish:
                        left -= 1
                        self._metrics.finished(output.finish, time.monotonic() - arrived)
                    yield index, output
        finally:  # the client went away
            for _ in range(left):
                self._metrics.finished("cancelled", time.monotonic() - arrived)

    def _error_of(self, output: Output) -> ApiError | None:
        if output.finish == "error":
            return ApiError(500 if self._worker.failure else 400, output.error)
        if output.finish == "cancelled":
            return ApiError(503, "the request was cancelled")
        return None

    async def _whole(self, job: Job, scope: Scope, send: Send) -> None:
        choices = [render.Choice(job, i, self._service.tokenizer) for i in range(len(job.requests))]
        vectors: list[Any] = [None] * len(choices)
        async with contextlib.aclosing(self._outputs(job)) as outputs:
            async for index, output in outputs:
                error = self._error_of(output)
                if error is not None:
                    raise error
                choices[index].push(output)
                if output.embedding is not None:
                    vectors[index] = output.embedding
        if isinstance(job.body, EmbeddingRequest):
            if any(vector is None for vector in vectors):
                raise ApiError(503, "the time limit was reached", "timeout")
            body = render.embeddings(job, vectors)
        else:
            body = render.head(job, stream=False)
            body["choices"] = [choice.whole for choice in choices]
            body["usage"] = render.usage(job, choices)
        await _send_json(send, 200, body)

    async def _stream(self, job: Job, scope: Scope, send: Send) -> None:
        choices = [render.Choice(job, i, self._service.tokenizer) for i in range(len(job.requests))]
        head = render.head(job, stream=True)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), _NO_STORE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with_usage = job.body.stream_options is not None and job.body.stream_options.include_usage
        extra = {"usage": None} if with_usage else {}
        if isinstance(job.body, ChatRequest):
            delta = {"role": "assistant", "content": ""}
            for choice in choices:
                opening = {"index": choice.index, "delta": delta, "finish_reason": None}
                await _event(send, head | {"choices": [opening]} | extra)
        async with contextlib.aclosing(self._outputs(job)) as outputs:
            async for index, output in outputs:
                error = self._error_of(output)
                if error is not None:
                    await _event(send, error.body)
                    break
                new = choices[index].push(output)
                if new is not None:
                    await _event(send, head | {"choices": [new]} | extra)
            else:
                if with_usage:
                    counts = render.usage(job, choices)
                    await _event(send, head | {"choices": [], "usage": counts})
                await send(_part(b"data: [DONE]\n\n"))
        await send(_part(b"", more=False))


def _part(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _event(send: Send, body: dict[str, Any]) -> None:
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    await send(_part(b"data: " + data + b"\n\n"))


async def _send_json(
    send: Send, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    fields += [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send(_part(data, more=False))


async def _until_gone(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` and cancels it when the client goes away."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    main, watcher = asyncio.ensure_future(work()), asyncio.ensure_future(listen())
    try:
        await asyncio.wait({main, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not main.done():
            raise _Gone
        await main
    finally:
        for task in (main, watcher):
            task.cancel()
        await asyncio.gather(main, watcher, return_exceptions=True)
