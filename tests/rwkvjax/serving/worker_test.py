# SPDX-License-Identifier: Apache-2.0
"""The thread of an engine: admission, leaving early, and an engine that fails."""

import asyncio

import numpy as np
import pytest

from rwkvjax.sampling import Sampling
from rwkvjax.serving import Request
from rwkvjax.serving.worker import Busy, Worker

ENDLESS = Request(np.array([65], np.int32), 100_000, Sampling(0.0))


def _run(engine, use, max_waiting=2):
    async def main():
        worker = Worker(engine, max_waiting, lambda engine: None)
        worker.start()
        try:
            return await use(worker)
        finally:
            await worker.stop()

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_admission(make_engine):
    async def use(worker):
        with worker.reserve(4):
            with pytest.raises(Busy, match="4 sequences"):
                worker.reserve(3)
            with worker.reserve(2):
                assert worker.in_flight == 6
        assert worker.in_flight == 0
        worker.draining = True
        with pytest.raises(Busy, match="stopping"):
            worker.reserve(1)

    _run(make_engine(), use)


def test_leaving_early_frees_the_slot(make_engine):
    engine = make_engine()

    async def use(worker):
        outputs = worker.together([ENDLESS] * 3)
        await anext(outputs)
        await outputs.aclose()
        while engine.busy:
            await asyncio.sleep(0.01)

    _run(engine, use)
    assert engine.free_slots == 4 and engine.stats.finished == 3


class _Panic(BaseException):
    """As extensions in Rust raise it."""


@pytest.mark.parametrize("error", [RuntimeError, _Panic])
def test_a_failing_engine_answers_everybody(make_engine, monkeypatch, error):
    engine = make_engine()

    def step():
        raise error("the device is lost")

    async def use(worker):
        assert worker.alive
        monkeypatch.setattr(engine, "step", step)
        found = [output async for _, output in worker.together([ENDLESS] * 2)]
        assert [output.finish for output in found] == ["error", "error"]
        assert not worker.alive
        (late,) = [output async for output in worker.run(ENDLESS)]
        assert late.finish == "error"
        with pytest.raises(Busy, match="failed"):
            worker.reserve(1)

    _run(engine, use)


def test_a_request_that_does_not_fit_is_its_own_error(make_engine):
    async def use(worker):
        bad = Request(np.array([999], np.int32))
        (output,) = [output async for output in worker.run(bad)]
        assert output.finish == "error" and "token ids" in output.error
        assert worker.alive

    _run(make_engine(), use)
