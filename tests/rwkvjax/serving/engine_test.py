# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import numpy as np
import pytest

from rwkvjax import model, sampling
from rwkvjax.embedding import Pooling, embed
from rwkvjax.quantization import QuantizeConfig, quantize
from rwkvjax.sampling import Sampling
from rwkvjax.sampling.constrained import Grammars
from rwkvjax.serving import Engine, Limits, Request, Variant
from rwkvjax.serving.sequence import StopText
from rwkvjax.tokenizers import ByteTokenizer
from tests.rwkvjax.serving.shared import CFG, random_params, run

GREEDY = Sampling(temperature=0.0)


def _requests(count, seed=0, **changes):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        prompt = rng.integers(1, 256, rng.integers(1, 40)).astype(np.int32)
        how = (GREEDY, Sampling(0.8, 0.9, presence=0.3, frequency=0.2), Sampling(1.2, 1.0, 40))[
            i % 3
        ]
        fields = {"max_tokens": int(rng.integers(1, 30)), "how": how, "seed": i} | changes
        made.append(Request(prompt, **fields))
    return made


def test_outputs_in_company_equal_those_alone(make_engine):
    """Bit for bit the same shapes run, so tokens agree at every temperature, in every slot."""
    requests = _requests(14)
    together = run(make_engine(), requests)
    engine = make_engine()
    for request, (text, tokens, last) in zip(requests, together, strict=True):
        ((alone_text, alone, end),) = run(engine, [request])
        assert alone == tokens and alone_text == text and end.finish == last.finish
    assert engine.free_slots == 4 and not engine.busy


def test_tokens_are_those_of_plain_generation(make_engine, params):
    requests = _requests(3, max_tokens=12)
    for request, (_, tokens, _) in zip(requests, run(make_engine(), requests), strict=True):
        plain = sampling.generate(
            params,
            CFG,
            [request.prompt],
            12,
            request.how,
            [request.seed],
            weights=sampling.token_weights(ByteTokenizer(), 256),
        )
        np.testing.assert_array_equal(tokens, plain[0])


def test_requests_join_and_leave_between_steps(make_engine):
    engine = make_engine(slots=2)
    first = engine.submit(dataclasses.replace(_requests(1)[0], max_tokens=30))
    produced = []
    for _ in range(10):
        produced += [n for n, output in engine.step() if output.tokens]
    second = engine.submit(Request(np.array([65], np.int32), max_tokens=2, how=GREEDY))
    events = []
    while engine.busy:
        events += [(n, output.finish) for n, output in engine.step()]
    assert events.index((second, "length")) < events.index((first, "length"))
    assert produced and set(produced) == {first}


def test_long_prompts_do_not_stop_the_others(make_engine):
    engine = make_engine(slots=2, chunk=8)
    short = engine.submit(Request(np.array([65], np.int32), max_tokens=40, how=GREEDY))
    engine.step()
    engine.submit(Request(np.full(81, 66, np.int32), max_tokens=1, how=GREEDY))
    for _ in range(10):  # ten pieces of eight, one token for the other in each step
        outputs = engine.step()
        assert [n for n, _ in outputs] == [short]


def test_prefix_cache_gives_the_same_tokens_with_less_work(make_engine):
    engine = make_engine(cache_bytes=1 << 20)
    prompt = np.random.default_rng(0).integers(1, 256, 50).astype(np.int32)
    ((_, tokens, first),) = run(engine, [Request(prompt, 10, GREEDY)])
    assert first.cached == 0
    again = np.concatenate([prompt, np.array(tokens, np.int32), np.array([1, 2, 3], np.int32)])
    ((_, warm, last),) = run(engine, [Request(again, 10, GREEDY)])
    assert last.cached == 60  # everything but the new tokens
    ((_, cold, _),) = run(make_engine(), [Request(again, 10, GREEDY)])
    assert warm == cold
    ((_, whole, last),) = run(engine, [Request(prompt, 10, GREEDY)])
    assert whole == tokens and last.cached == 50  # no model call before the first token


def test_breakpoints_share_a_beginning(make_engine):
    engine = make_engine(cache_bytes=1 << 20)
    system = np.arange(1, 22, dtype=np.int32)
    ask = lambda end: Request(np.append(system, end).astype(np.int32), 3, GREEDY, breakpoints=(21,))
    run(engine, [ask([50])])
    ((_, tokens, last),) = run(engine, [ask([60, 61])])
    assert last.cached == 21
    assert tokens == run(make_engine(), [ask([60, 61])])[0][1]


def test_stop_tokens_and_strings(make_engine):
    prompt = np.array([70, 71], np.int32)
    ((text, tokens, _),) = run(make_engine(), [Request(prompt, 20, GREEDY)])
    stop = text[3:5]
    ((cut, _, last),) = run(make_engine(), [Request(prompt, 20, GREEDY, stop=("zzz", stop))])
    assert cut == text[: text.index(stop)] and last.finish == "stop"
    ending = dataclasses.replace(GREEDY, stop=(tokens[4],))
    ((_, ended, last),) = run(make_engine(), [Request(prompt, 20, ending)])
    assert ended == tokens[: tokens.index(tokens[4])] and last.finish == "stop"


def test_logprobs_are_the_model_s(make_engine, params):
    prompt = np.array([5, 6, 7, 8, 9], np.int32)
    how = Sampling(1.0, 0.5, presence=1.0)
    engine = make_engine()
    number = engine.submit(Request(prompt, 3, how, logprobs=4, echo=True))
    prompt_infos, infos = [], []
    while engine.busy:
        for n, output in engine.step():
            assert n == number
            prompt_infos += output.prompt_tokens
            infos += output.tokens
    whole = np.append(prompt, [info.token for info in infos])
    logits, _ = jax.jit(model.apply, static_argnums=1)(params, CFG, whole[None])
    expected = np.asarray(jax.nn.log_softmax(logits[0], axis=-1))
    assert [info.token for info in prompt_infos] == list(prompt)
    assert prompt_infos[0].logprob is None
    for place, info in enumerate([*prompt_infos, *infos]):
        if place:
            assert info.logprob == pytest.approx(expected[place - 1, info.token], abs=1e-4)
            best = np.sort(expected[place - 1])[::-1][:4]
            np.testing.assert_allclose([value for _, value in info.top], best, atol=1e-4)
    ((_, _, last),) = run(engine, [Request(prompt, 0, echo=True, logprobs=0)])
    assert last.finish == "length" and len(last.prompt_tokens) == 5


def test_variants_share_a_batch(make_engine, params, cfg):
    """Another start and other weights for some requests; each as if it were alone."""
    state = jax.tree.map(lambda x: x + 0.5, model.init_state(cfg, 1))
    other = jax.tree.map(lambda x: 1.1 * x, params)
    variants = [Variant(), Variant(state=state), Variant(params=other), Variant(other, state)]
    prompt = np.array([65, 66, 67], np.int32)
    requests = [Request(prompt, 8, GREEDY, variant=v) for v in variants for _ in range(2)]
    together = [tokens for _, tokens, _ in run(make_engine(cache_bytes=1 << 20), requests)]
    assert len({tuple(t) for t in together}) == 4
    for i, variant in enumerate(variants):
        weights = variant.params if variant.params is not None else params
        plain = sampling.generate(weights, cfg, [prompt], 8, GREEDY, state=variant.state)
        assert together[2 * i] == together[2 * i + 1] == list(plain[0])


@pytest.mark.parametrize("version", ["4", "5.2", "7"])
def test_other_versions(version):
    cfg = dataclasses.replace(CFG, version=version)
    weights = random_params(cfg)
    requests = _requests(3, max_tokens=6, how=GREEDY)
    engine = Engine(weights, cfg, ByteTokenizer(), Limits(2, 8, 1 << 20))
    for request, (_, tokens, _) in zip(requests, run(engine, requests), strict=True):
        plain = sampling.generate(weights, cfg, [request.prompt], 6, GREEDY)
        assert tokens == list(plain[0])


def test_quantised_weights(cfg, params):
    small = quantize(params, QuantizeConfig(bits=8))
    prompt = np.array([65, 66, 67], np.int32)
    engine = Engine(small, cfg, ByteTokenizer(), Limits(2, 8, 0))
    ((_, tokens, _),) = run(engine, [Request(prompt, 8, GREEDY)])
    assert tokens == list(sampling.generate(small, cfg, [prompt], 8, GREEDY)[0])


def test_embedding_is_the_mean_of_the_final_activations(make_engine, params, cfg):
    prompt = np.arange(1, 20, dtype=np.int32)
    ((_, _, last),) = run(make_engine(), [Request(prompt, 0, embed=True)])
    x, _ = jax.jit(model.hidden, static_argnums=1)(
        params, cfg, prompt[None], model.init_state(cfg, 1)
    )
    np.testing.assert_allclose(last.embedding, np.asarray(x[0]).mean(0), atol=1e-4)
    (library,) = embed(params, cfg, [prompt], Pooling("mean"))
    unit = last.embedding / np.linalg.norm(last.embedding)
    np.testing.assert_allclose(unit, library, atol=1e-5)  # what the server sends


def test_cancellation_and_deadlines_free_slots(make_engine):
    now = [0.0]
    engine = make_engine(slots=2, clock=lambda: now[0])
    many = Request(np.array([65], np.int32), 1000, GREEDY)
    numbers = [engine.submit(many) for _ in range(4)]
    numbers.append(engine.submit(dataclasses.replace(many, deadline=5.0)))
    for _ in range(3):
        engine.step()
    assert (engine.running, engine.waiting) == (2, 3)
    engine.cancel(numbers[0])
    engine.cancel(numbers[3])
    ends = [(n, o.finish) for n, o in engine.step() if o.finish]
    assert sorted(ends) == [(numbers[0], "cancelled"), (numbers[3], "cancelled")]
    now[0] = 6.0
    assert (numbers[4], "timeout") in [(n, o.finish) for n, o in engine.step()]
    engine.cancel(numbers[1])
    engine.cancel(numbers[2])
    engine.step()
    assert not engine.busy and engine.free_slots == 2


def test_thousands_of_requests_leave_nothing_behind(make_engine):
    engine = make_engine(slots=4, cache_bytes=40_000)
    rng = np.random.default_rng(0)
    before = engine.state_bytes
    for round_number in range(150):
        numbers = [
            engine.submit(Request(rng.integers(1, 9, 3).astype(np.int32), 1 + i % 3, GREEDY))
            for i in range(20)
        ]
        engine.step()
        for number in rng.choice(numbers, 5):
            engine.cancel(int(number))
        while engine.busy:
            engine.step()
        assert engine.cache.nbytes <= 40_000, round_number
    assert engine.stats.finished == 3000
    assert engine.free_slots == 4 and engine.waiting == engine.running == 0
    assert not engine._filling and not engine._running and engine.state_bytes == before
    entries = engine.cache._entries
    assert sum(entry.nbytes for entry in entries.values()) == engine.cache.nbytes
    live = sum(x.nbytes for x in jax.live_arrays())
    run(engine, _requests(12))
    assert sum(x.nbytes for x in jax.live_arrays()) <= live + 100_000


def test_constrained_output(make_engine):
    pytest.importorskip("llguidance")
    grammars = Grammars(ByteTokenizer(), 256)
    ends = Sampling(1.0, 1.0, stop=(0,))
    number = Request(
        np.array([65], np.int32), 40, ends, matcher=grammars.regex(r"[0-9]{3}-[a-f]{2}"), seed=3
    )
    free = Request(np.array([65], np.int32), 10, GREEDY)
    (text, _, last), (other, _, _) = run(make_engine(), [number, free])
    assert len(text) == 6 and text[3] == "-" and text[:3].isdigit() and last.finish == "stop"
    assert other == run(make_engine(), [free])[0][0]


def test_refuses_what_does_not_fit(make_engine):
    engine = make_engine()
    for bad in (
        Request(np.zeros(0, np.int32)),
        Request(np.array([256], np.int32)),
        Request(np.array([-1], np.int32)),
        Request(np.array([1], np.int32), max_tokens=0),
    ):
        with pytest.raises(ValueError):
            engine.submit(bad)
    assert not engine.busy


def test_stop_text_holds_back_what_may_be_a_stop():
    stops = StopText(["abc", "bx"])
    assert stops.push("1ab") == ("1", False)
    assert stops.push("a") == ("ab", False)
    assert stops.push("b") == ("", False)
    assert stops.push("c!") == ("", True)
    assert stops.push("ab") == ("", False)
    assert stops.push("x") == ("a", True)
    assert stops.push("ab") == ("", False)
    assert stops.flush() == "ab"
