# SPDX-License-Identifier: Apache-2.0
"""Cache, limits and runner against a real local server that misbehaves."""

import asyncio
import collections
import logging
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from decimal import Decimal

import pytest

pytest.importorskip("openai")

from nlp.evaluation import limits, redaction, runner  # noqa: E402
from nlp.evaluation.backends.base import Refused  # noqa: E402
from nlp.evaluation.backends.openai_api import Endpoint as Address  # noqa: E402
from nlp.evaluation.backends.openai_api import OpenAIBackend  # noqa: E402
from nlp.evaluation.cache import Cache, CacheError  # noqa: E402
from nlp.evaluation.records import Request, Response  # noqa: E402
from tests.nlp.endpoint import Endpoint, answer_to  # noqa: E402

KEY = "sk-test-0123456789abcdefSECRET"


def _requests(n, text='Is item {} "good" or "bad"?'):
    return [
        Request("t", str(i), (("user", text.format(i)),), codes=("good", "bad")) for i in range(n)
    ]


def _run(server, path, requests, key="", timeout=5.0, stream=False, endpoint="chat", **settings):
    settings = {"backoff": 0.01, "timeout": timeout, **settings}
    address = Address("m", server.url, endpoint, max_tokens=8, stream=stream)

    async def main():
        backend = OpenAIBackend(address, key, timeout)
        try:
            with Cache(path) as cache:
                work = runner.Runner(backend, cache, runner.Settings(**settings))
                stats = await work.run(iter(requests))
                answers = [cache.get(r.key(backend.identity)) for r in requests]
                failures = [cache.failure(r.key(backend.identity)) for r in requests]
                return stats, answers, failures
        finally:
            await backend.close()

    return asyncio.run(main())


def _faults(prompt, attempt):
    """The first attempts of each item fail in its own way."""
    faults = ["ok", "429", "500", "hang", "truncated", "drop", "error_200", "html"]
    number = int(prompt.split()[2])
    return faults[number % len(faults)] if attempt <= 1 + number % 2 else "ok"


def test_every_fault_is_survived_and_no_item_is_lost_or_asked_twice(tmp_path):
    requests = _requests(48)
    with Endpoint(_faults, retry_after="0.05") as server:
        stats, answers, _ = _run(
            server, tmp_path / "c.sqlite", requests, concurrency=16, timeout=2.0
        )
        assert stats.answered == 48 and stats.failed == 0 and not stats.stopped
        for request, answer in zip(requests, answers, strict=True):
            assert answer.text == answer_to(request.messages[0][1])
        assert set(server.answered.values()) == {1}, "an answered item must not be asked again"
        sent = len(server.requests)
        expected = sum(1 + (0 if i % 8 == 0 else 1 + i % 2) for i in range(48))
        assert sent == expected == stats.attempts
        again, same, _ = _run(server, tmp_path / "c.sqlite", requests)
        assert (again.cached, again.attempts) == (48, 0) and len(server.requests) == sent
        assert same == answers


def test_streams_slow_streams_and_cut_streams(tmp_path):
    plan = lambda prompt, attempt: "ok" if attempt > 1 else {
        "0": "ok", "1": "slow_stream", "2": "cut_stream"}[prompt.split()[2]]  # fmt: skip
    with Endpoint(plan, answer=lambda prompt: '["żółć 😀"]') as server:
        stats, answers, _ = _run(server, tmp_path / "c", _requests(3), stream=True, timeout=2.0)
        assert [a.text for a in answers] == ['["żółć 😀"]'] * 3
        assert [a.prompt_tokens for a in answers] == [7, 7, 7]
        assert stats.retries == 2


def test_bodies_null_content_usage_and_completions(tmp_path):
    plan = lambda prompt, attempt: {"0": "null", "1": "no_usage"}.get(prompt.split()[2], "ok")
    with Endpoint(plan) as server:
        stats, answers, _ = _run(server, tmp_path / "c", _requests(3))
        assert answers[0].text == "" and answers[0].status == "ok"
        assert answers[1].estimated and answers[1].prompt_tokens > 0 and stats.estimated == 1
        body = next(b for b in server.bodies if b["messages"][0]["content"].startswith("Is item 2"))
        assert body == {
            "model": "m", "temperature": 0.0, "top_p": 1.0, "max_tokens": 8,
            "messages": [{"role": "user", "content": 'Is item 2 "good" or "bad"?'}],
        }  # fmt: skip
        _, answers, _ = _run(server, tmp_path / "d", _requests(1), endpoint="completions")
        assert answers[0].text.startswith("[") and server.bodies[-1]["prompt"].startswith("Is item")


def test_what_cannot_be_answered_is_no_answer(tmp_path):
    faults = {"0": "too_long", "1": "500", "2": "moderated"}
    plan = lambda prompt, attempt: faults.get(prompt.split()[2], "ok")
    with Endpoint(plan) as server:
        stats, answers, failures = _run(server, tmp_path / "c", _requests(4), retries=2)
        assert [a is None for a in answers] == [True, True, True, False]
        assert [f and f.status for f in failures] == ["too_long", "error", "filtered", None]
        assert (stats.answered, stats.failed) == (1, 3)
        assert server.attempts['Is item 0 "good" or "bad"?'] == 1, "too long is not retried"
        assert server.attempts['Is item 1 "good" or "bad"?'] == 3
        server.plan = lambda prompt, attempt: "ok"
        stats, answers, failures = _run(server, tmp_path / "c", _requests(4))
        assert (stats.cached, stats.answered) == (1, 3) and all(answers) and not any(failures)


def test_a_wrong_key_ends_the_run_without_showing_the_key(tmp_path, caplog, capfd):
    undo = redaction.guard_logging(redaction.Redactor([KEY]))
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai").setLevel(logging.DEBUG)
    try:
        with Endpoint(lambda *_: "unauthorized") as server:
            with pytest.raises(Refused) as caught:
                _run(server, tmp_path / "c", _requests(40), key=KEY, concurrency=4)
            assert any(KEY in str(h) for h in server.headers), "the test must send the key"
            assert len(server.requests) <= 8
        with Endpoint(answer=lambda p: f'["{KEY}"]') as server:
            _, answers, _ = _run(server, tmp_path / "c", _requests(2), key=KEY)
        logging.getLogger("x").warning("the key %s and Bearer abcdefghijkl", KEY)
        try:
            raise ValueError(f"bad {KEY}")
        except ValueError:
            logging.getLogger("x").exception("failed")
    finally:
        undo()
        logging.getLogger("openai").setLevel(logging.NOTSET)
    assert answers[0].text == '["[redacted]"]'
    out = capfd.readouterr()
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    for text in (str(caught.value), caplog.text, out.out, out.err, stored.decode("latin-1")):
        assert KEY not in text and "SECRET" not in text
    assert "abcdefghijkl" not in caplog.text and "Incorrect API key" in str(caught.value)


def test_keys_never_come_from_configurations(monkeypatch):
    with pytest.raises(ValueError, match="NAME of an environment variable") as caught:
        redaction.read_key(KEY)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("SOME_KEY", KEY)
    assert redaction.read_key("SOME_KEY") == KEY
    with pytest.raises(ValueError, match="not set"):
        redaction.read_key("OTHER_KEY")
    monkeypatch.setenv("SOME_KEY", "none")  # would be masked in answers that say "none"
    with pytest.raises(ValueError, match="leave api_key_env empty"):
        redaction.read_key("SOME_KEY")
    with pytest.raises(ValueError, match="no user name") as caught:
        Address("m", f"http://user:{KEY}@127.0.0.1/v1")
    assert KEY not in str(caught.value)


def test_rate_and_concurrency_limits(tmp_path):
    with Endpoint(delay=0.05) as server:
        stats, _, _ = _run(
            server, tmp_path / "c", _requests(60), concurrency=7, requests_per_minute=6000
        )
        starts = sorted(t for t, _, _ in server.requests)
        assert server.most_active <= 7 and stats.most_in_flight <= 7
        # 100 a second: no half second may hold more than 50, plus what the network bunches up.
        for i, start in enumerate(starts):
            assert sum(start <= t < start + 0.2 for t in starts[i:]) <= 20 + 7
        assert stats.seconds >= 59 / 100


def test_limiter_spaces_exactly_and_counts_tokens():
    now = [0.0]
    limiter = limits.RateLimiter(60, 600, clock=lambda: now[0])
    assert [limiter.reserve(1) for _ in range(3)] == [0.0, 1.0, 2.0]
    assert limiter.reserve(30) == 3.0 and limiter.reserve(1) == 6.0, "30 tokens take 3 s"
    limiter.pause(10)
    assert limiter.reserve(1) == 10.0
    limiter.correct(1, 11)
    assert limiter.reserve(1) == 12.0


def test_retry_after_is_honoured_by_everybody(tmp_path):
    plan = lambda prompt, attempt: "429" if attempt == 1 and "item 0 " in prompt else "ok"
    with Endpoint(plan, delay=0.02, retry_after="1") as server:
        _run(server, tmp_path / "c", _requests(12), concurrency=2)
        refused = next(t for t, _, what in server.requests if what == "429")
        early = [t for t, _, _ in server.requests if refused < t < refused + 0.95]
        assert len(early) <= 1, "only what was under way may still arrive"
        assert len(server.requests) == 13
    assert limits.retry_after("7") == 7 and limits.retry_after("-3") == 0
    assert limits.retry_after("Wed, 21 Oct 2015 07:28:00 GMT", lambda: 1445412470.0) == 10
    assert limits.retry_after("soon") is None and limits.retry_after(None) is None
    with Endpoint(lambda *_: "429", retry_after="90000") as server:
        stats, _, _ = _run(server, tmp_path / "d", _requests(5), concurrency=1)
        assert "asks to wait" in stats.stopped and len(server.requests) == 1


def test_backoff_grows_jitters_and_is_capped():
    backoff, rng = limits.Backoff(1, 8), random.Random(0)
    for attempt, top in enumerate([1, 2, 4, 8, 8, 8]):
        values = [backoff.seconds(attempt, rng) for _ in range(50)]
        assert top / 2 <= min(values) < max(values) <= top
    assert backoff.seconds(10_000, rng) <= 8


def test_a_stopped_run_does_not_wait_for_its_next_attempts(tmp_path):
    async def ask(server):
        backend = OpenAIBackend(Address("m", server.url, max_tokens=8))
        with Cache(tmp_path / "c") as cache:
            work = runner.Runner(backend, cache, runner.Settings(concurrency=4))
            asyncio.get_running_loop().call_later(0.5, work.stop, "SIGINT")
            stats = await asyncio.wait_for(work.run(_requests(8)), 20)
        await backend.close()
        return stats

    with Endpoint(lambda *_: "429", retry_after="300") as server:
        stats = asyncio.run(ask(server))
        assert stats.stopped == "SIGINT" and not stats.answered
        assert len(server.requests) == stats.attempts <= 4, "nothing is sent after the stop"


def test_an_outage_ends_the_run_early(tmp_path):
    with Endpoint(lambda *_: "500") as server:
        stats, _, _ = _run(
            server, tmp_path / "c", _requests(100), retries=1, failures_in_a_row=5, concurrency=2
        )
        assert "failures in a row" in stats.stopped and len(server.requests) <= 2 * 7


def test_budget_stops_and_resumes(tmp_path):
    prices = limits.Prices.parse("1000", "2000")  # a thousandth and two for each token
    requests = _requests(40)
    with Endpoint() as server:
        stats, answers, _ = _run(
            server, tmp_path / "c", requests, prices=prices, budget=Decimal("0.3"), concurrency=4
        )
        assert stats.stopped == "budget" and 0 < stats.answered < 40
        assert stats.cost <= Decimal("0.3")
        used = sum(
            (prices.cost(a.prompt_tokens, a.completion_tokens) for a in answers if a), Decimal(0)
        )
        assert stats.cost == used
        rest, answers, _ = _run(server, tmp_path / "c", requests, prices=prices)
        assert rest.cached == stats.answered and all(answers)
        assert set(server.answered.values()) == {1}
    with pytest.raises(ValueError):
        limits.Prices.parse("cheap", "1")
    with pytest.raises(ValueError):
        limits.Prices.parse("-1", "1")


def test_dry_run_sends_nothing_and_bounds_the_cost(tmp_path):
    requests = [*_requests(10), *_requests(3)]
    prices = limits.Prices.parse("1000", "2000")
    with Endpoint() as server:
        address = Address("m", server.url, max_tokens=8)
        with Cache(tmp_path / "c") as cache:
            identity = {"kind": "openai"} | OpenAIBackend(address).identity
            guess = runner.estimate(requests, identity, cache, prices, 8)
        assert not server.requests
        assert (guess.requests, guess.cached) == (10, 3)
        stats, _, _ = _run(server, tmp_path / "c", requests, prices=prices)
        assert stats.cached == 3 and len(server.requests) == 10
        assert guess.highest >= stats.cost and guess.cost > 0


# --- the cache -----------------------------------------------------------------------------------


def test_cache_keeps_the_first_answer_and_no_errors(tmp_path):
    with Cache(tmp_path / "c") as cache:
        assert cache.claim("k") == "mine" and cache.claim("k") == "busy"
        cache.put("k", Response("a", scores=(("x", -1.5),)))
        cache.put("k", Response("b"))
        assert cache.get("k") == Response("a", scores=(("x", -1.5),)) and len(cache) == 1
        assert cache.claim("k") == "answered"
        with pytest.raises(ValueError, match="only answers"):
            cache.put("e", Response(status="error"))
        cache.put_failure("e", Response(status="error", error="x"))
        assert cache.get("e") is None and cache.failure("e").error == "x"
    (tmp_path / "bad").write_bytes(b"not a database, certainly not" * 100)
    with pytest.raises(CacheError, match="not a usable cache"):
        Cache(tmp_path / "bad")
    other = sqlite3.connect(tmp_path / "new")
    other.execute("PRAGMA user_version=99")
    other.close()
    with pytest.raises(CacheError, match="format 99"):
        Cache(tmp_path / "new")


def test_keys_depend_on_content_only():
    a = Request("t", "1", (("user", "x"),))
    assert a.key({"m": 1}) == Request("u", "2", (("user", "x"),)).key({"m": 1})
    different = [
        a.key({"m": 2}),
        Request("t", "1", (("user", "y"),)).key({"m": 1}),
        Request("t", "1", (("system", "x"),)).key({"m": 1}),
        Request("t", "1", (("user", "x"),), sample=1).key({"m": 1}),
        a.key({"m": 1, "per_item": True}),
    ]
    assert len({a.key({"m": 1}), *different}) == 6


def _holder(path, ready):
    cache = Cache(path)
    assert cache.claim("k") == "mine"
    ready.set()
    time.sleep(60)


def test_a_claim_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_holder, args=(str(tmp_path / "c"), ready))
    process.start()
    assert ready.wait(60)
    with Cache(tmp_path / "c") as cache:
        assert cache.claim("k") == "busy"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        time.sleep(0.6)
        assert cache.claim("k") == "mine"


def test_two_runs_at_once_share_the_work(tmp_path):
    requests = _requests(60)

    async def main(url):
        async def one():
            backend = OpenAIBackend(Address("m", url))
            with Cache(tmp_path / "c") as cache:
                settings = runner.Settings(concurrency=4)
                stats = await runner.Runner(backend, cache, settings).run(iter(requests))
            await backend.close()
            return stats

        return await asyncio.gather(one(), one())

    with Endpoint(delay=0.01) as server:
        first, second = asyncio.run(main(server.url))
        assert first.answered + second.answered == 60 and min(first.answered, second.answered) > 5
        assert collections.Counter(server.answered.values()) == {1: 60}
