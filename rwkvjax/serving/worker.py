# SPDX-License-Identifier: Apache-2.0
"""Runs an engine in a thread and hands its outputs to asyncio.

The event loop never waits for the model and the model never waits for the event loop: requests and
cancellations go in through a queue, outputs come back once a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from rwkvjax.serving.engine import Engine
from rwkvjax.serving.sequence import Output, Request

_log = logging.getLogger("rwkvjax.serving")


class Busy(Exception):
    """Too many requests are waiting, or the server is about to stop."""


class Worker:
    """The thread of one engine. All methods are called from one event loop."""

    def __init__(self, engine: Engine, max_waiting: int, observe: Callable[[Engine], None]):
        """`max_waiting` requests may wait besides those in slots; `observe` follows every step."""
        self.engine, self.max_waiting = engine, max_waiting
        self.draining = False
        self.failure = ""
        self.in_flight = 0
        self._observe = observe
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._sinks: dict[int, asyncio.Queue[Output]] = {}  # of the thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after the step that it is in; waiting requests get nothing more."""
        self.draining = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self.failure

    def reserve(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Room for `count` requests until the end of a `with` block; Busy if there is none."""
        if self.draining:
            raise Busy("the server is stopping")
        if self.failure:
            raise Busy(self.failure)
        if self.in_flight + count > self.engine.limits.slots + self.max_waiting:
            raise Busy(f"{self.in_flight} sequences are in progress; try again later")
        self.in_flight += count
        return self._release(count)

    @contextlib.contextmanager
    def _release(self, count: int) -> Iterator[None]:
        try:
            yield
        finally:
            self.in_flight -= count

    async def run(self, request: Request) -> AsyncGenerator[Output, None]:
        """Outputs of one request until one of them has a finish; leaving early cancels it."""
        sink: asyncio.Queue[Output] = asyncio.Queue()
        number: list[int] = []  # filled by the thread
        done = False

        def submit() -> None:
            if self.failure:
                self._post([(sink, Output(finish="error", error=self.failure))])
                return
            try:
                number.append(self.engine.submit(request))
            except (ValueError, TypeError) as error:
                self._post([(sink, Output(finish="error", error=str(error)))])
                return
            self._sinks[number[0]] = sink

        def cancel() -> None:
            for started in number:
                self.engine.cancel(started)

        self._inbox.put(submit)
        try:
            while not done:
                output = await sink.get()
                done = bool(output.finish)
                yield output
        finally:
            if not done:
                self._inbox.put(cancel)

    async def together(
        self, requests: Sequence[Request]
    ) -> AsyncGenerator[tuple[int, Output], None]:
        """Outputs of several requests as they come: (index of the request, output)."""
        if len(requests) == 1:
            async with contextlib.aclosing(self.run(requests[0])) as outputs:
                async for output in outputs:
                    yield 0, output
            return
        merged: asyncio.Queue[tuple[int, Output]] = asyncio.Queue()

        async def pump(index: int) -> None:
            async with contextlib.aclosing(self.run(requests[index])) as outputs:
                async for output in outputs:
                    merged.put_nowait((index, output))

        tasks = [asyncio.ensure_future(pump(i)) for i in range(len(requests))]
        try:
            left = len(tasks)
            while left:
                index, output = await merged.get()
                left -= bool(output.finish)
                yield index, output
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- in the thread ---

    def _run(self) -> None:
        try:
            while self._take_in():
                if not self.engine.busy:
                    continue
                posts = []
                for number, output in self.engine.step():
                    posts.append((self._sinks[number], output))
                    if output.finish:
                        del self._sinks[number]
                self._post(posts)
                self._observe(self.engine)
        # A defect or a lost device: say so instead of hanging. Panics of extensions in Rust are no
        # `Exception`.
        except BaseException:
            _log.exception("the engine failed")
            self.failure = "the engine failed"
            failed = Output(finish="error", error=self.failure)
            self._post([(sink, failed) for sink in self._sinks.values()])
            self._sinks.clear()
            while (command := self._inbox.get()) is not None:  # those that were on their way
                command()

    def _take_in(self) -> bool:
        """Runs what has come in, waiting for it when there is nothing else to do."""
        while True:
            try:
                command = self._inbox.get(block=not self.engine.busy)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _post(self, posts: list[tuple[asyncio.Queue[Output], Output]]) -> None:
        if not posts or self._loop is None:
            return

        def deliver() -> None:
            for sink, output in posts:
                sink.put_nowait(output)

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop is closed: nobody is there to read
            pass
