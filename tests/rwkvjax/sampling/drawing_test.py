# SPDX-License-Identifier: Apache-2.0
"""Drawing a token: against the NumPy oracle, and the oracle against the official package."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvjax import sampling
from rwkvjax.sampling import Sampling, oracle
from rwkvjax.sampling.drawing import adjust, truncate
from rwkvjax.tokenizers import ByteTokenizer, get_tokenizer

VOCAB = 300  # more than HEAD, so that both ways to the cutoff are taken
GOLDEN = pathlib.Path(__file__).parent / "official_sampler.npz"
_truncate = jax.jit(lambda logits, rows: truncate(adjust(logits, rows), rows))
_draw = jax.jit(sampling.draw)
ONES = np.ones(VOCAB, np.float32)


def _weights(logits, how):
    """Distribution [V] of the jitted code for one row."""
    weight = np.asarray(_truncate(np.asarray(logits)[None], sampling.row(how, len(logits))))[0]
    return weight / weight.sum()


def _close(logits, how, **tolerance):
    expected = oracle.probabilities(oracle.adjust(logits, how, {}), how)
    np.testing.assert_allclose(_weights(logits, how), expected, **{"atol": 2e-6} | tolerance)


_unit = st.floats(0.01, 0.99)


@settings(max_examples=150)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.1, 1.0, 3.0, 10.0]),
    st.floats(0.1, 3.0),
    st.one_of(st.just(1.0), _unit),
    st.one_of(st.just(0), st.integers(1, 2 * VOCAB)),
    st.one_of(st.just(0.0), _unit),
    st.one_of(st.just(1.0), _unit),
    st.booleans(),
)
def test_distribution_is_the_oracle_s(seed, scale, temperature, top_p, top_k, min_p, typical, off):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=VOCAB)).astype(np.float32)
    if off and top_p < 1:
        min_p, typical = 0.0, 1.0  # the official settings only
    how = Sampling(temperature, top_p, top_k, min_p=min_p, typical_p=typical, official=off)
    if off and top_p == 1:
        return  # documented: the oracle follows the rounding of the sum
    plain = how.resolved()
    probs = np.sort(oracle._softmax(logits.astype(np.float64)))[::-1]
    sums = np.cumsum(probs)
    near = np.abs(sums - plain.top_p).min() < 1e-5 or np.abs(probs / probs[0] - min_p).min() < 1e-5
    if near or (typical < 1 and _near_typical(logits, typical)):
        return  # rounding decides on which side a token falls
    _close(logits, how)


def _near_typical(logits, mass):
    p = oracle._softmax(logits.astype(np.float64))
    information = -np.log(p)
    distance = np.sort(np.abs(information - (p * information).sum()))
    order = np.argsort(np.abs(information - (p * information).sum()))
    close = np.diff(distance).min() < 1e-5
    return close or np.abs(np.cumsum(p[order]) - mass).min() < 1e-5


def test_truncation_by_hand():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    kept = lambda **how: list(_weights(logits, Sampling(**{"top_p": 1.0} | how)) > 0)
    assert kept() == [1, 1, 1, 1]
    assert kept(top_p=0.6) == [1, 1, 0, 0]
    assert kept(top_p=0.0) == [1, 0, 0, 0]
    assert kept(top_k=3) == [1, 1, 1, 0]
    assert kept(vocab=2) == [1, 1, 0, 0]
    assert kept(min_p=0.25) == [1, 1, 1, 0]
    assert kept(banned=(0, 3)) == [0, 1, 1, 0]
    # entropy 1.14 nats; 0.3 has 1.20, 0.5 has 0.69, 0.15 has 1.90, 0.05 has 3.0
    assert kept(typical_p=0.25) == [0, 1, 0, 0]
    assert kept(typical_p=0.7) == [1, 1, 0, 0]


def test_ties_at_the_cutoff():
    logits = np.zeros(VOCAB, np.float32)
    assert (_weights(logits, Sampling(top_p=0.5)) > 0).all()  # all tie with the cutoff
    kept = np.flatnonzero(_weights(logits, Sampling(top_p=1.0, top_k=7)))
    np.testing.assert_array_equal(kept, np.arange(VOCAB - 7, VOCAB))


def test_temperature_follows_truncation():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    expected = np.array([0.25, 0.09, 0, 0]) / 0.34
    np.testing.assert_allclose(_weights(logits, Sampling(0.5, 0.6)), expected, atol=1e-6)


@pytest.mark.parametrize("vocab", [5, 300, pytest.param(70_000, marks=pytest.mark.slow)])
def test_draws_follow_the_distribution(vocab):
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=vocab)).astype(np.float32)
    how = Sampling(0.8, 0.7)
    rows = sampling.rows_of([how] * 64, vocab, [(0, i) for i in range(64)])
    rows = rows._replace(presence=jnp.zeros(64))
    counts = np.zeros(vocab)
    for _ in range(50):
        tokens, rows = _draw(np.tile(logits, (64, 1)), rows, np.ones(vocab, np.float32))
        np.add.at(counts, np.asarray(tokens), 1)
    expected = 3200 * oracle.probabilities(logits, how)
    assert (counts[expected == 0] == 0).all()
    large = expected > 5
    chi2 = ((counts - expected)[large] ** 2 / expected[large]).sum()
    assert chi2 < large.sum() + 5 * np.sqrt(2 * large.sum()) + 5


def test_penalties_follow_the_oracle_over_many_draws():
    """Greedy under penalties with decay is deterministic: the same tokens, step by step."""
    rng = np.random.default_rng(2)
    weights = (rng.random(VOCAB) < 0.7).astype(np.float32)
    hows = [
        Sampling(0.0, presence=0.5, frequency=0.3, decay=0.9),
        Sampling(0.0, presence=-0.2, frequency=0.1, decay=0.5, bias=((3, 2.0),), banned=(5,)),
        Sampling(0.0, presence=2.0, frequency=0.0, decay=1.0),
    ]
    rows = sampling.rows_of(hows, VOCAB, [(0, 0)] * 3)
    seen = [{} for _ in hows]
    base = np.round(rng.normal(size=VOCAB), 2)  # no ties below float32 rounding
    for _ in range(60):
        logits = (base + 0.01 * rng.normal(size=VOCAB)).astype(np.float32)
        tokens, rows = _draw(np.tile(logits, (3, 1)), rows, weights)
        for i, how in enumerate(hows):
            expected = int(np.argmax(oracle.adjust(logits, how, seen[i])))
            assert tokens[i] == expected
            oracle.count(expected, how, seen[i], weights)
    counts = np.full((3, VOCAB), -1.0)
    for i, occurrence in enumerate(seen):
        for token, number in occurrence.items():
            counts[i, token] = number
    np.testing.assert_allclose(rows.counts, counts, rtol=1e-5)


def test_mask_decides_what_can_be_drawn():
    logits = np.random.default_rng(0).normal(size=(3, VOCAB)).astype(np.float32)
    allowed = np.zeros((3, 10 * 32), bool)
    allowed[0, [7, 200]], allowed[1, 31], allowed[2, 299] = True, True, True
    packed = np.packbits(allowed, axis=1, bitorder="little").view("<i4")
    rows = sampling.rows_of([Sampling(2.0, 1.0), Sampling(), Sampling(0.0)], VOCAB, [(1, 1)] * 3)
    for _ in range(20):
        tokens, rows = _draw(logits, rows, ONES, packed)
        assert tokens[0] in (7, 200) and tokens[1] == 31 and tokens[2] == 299


def test_bad_settings():
    for bad in (
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2.0},
        {"typical_p": -0.1},
        {"decay": 1.5},
        {"presence": float("nan")},
        {"bias": ((-1, 0.0),)},
    ):
        with pytest.raises(ValueError):
            Sampling(**bad)
    with pytest.raises(ValueError, match="every token"):
        sampling.row(Sampling(banned=tuple(range(5))), 5)


# --- the official package ---------------------------------------------------------------------


@functools.cache
def _golden():
    with np.load(GOLDEN) as stored:
        return dict(stored)


def test_oracle_draws_the_official_tokens():
    """`PIPELINE.sample_logits` with np.random.seed, recorded from the official package."""
    golden = _golden()
    for i, (temperature, top_p, top_k, seed) in enumerate(golden["settings"]):
        logits = golden["logits"][int(golden["which"][i])]
        how = Sampling(float(temperature), float(top_p), int(top_k), official=True)
        random = np.random.RandomState(int(seed))
        drawn = [oracle.sample(logits, how, {}, random) for _ in range(golden["drawn"].shape[1])]
        np.testing.assert_array_equal(drawn, golden["drawn"][i], err_msg=str(golden["settings"][i]))


def test_top_p_one_keeps_all_where_the_official_sum_may_stay_below_one():
    drawn, likely = _golden()["collapsed"].T
    assert 0.2 < np.mean(drawn == likely) <= 1  # by chance, one in thousands
    logits = np.random.default_rng(0).normal(size=VOCAB)
    assert (_weights(logits, sampling.official(top_p=1.0)) > 0).all()


def test_jitted_support_is_the_official_one():
    golden = _golden()
    for i, (temperature, top_p, top_k, _) in enumerate(golden["settings"]):
        logits = golden["logits"][int(golden["which"][i])]
        how = Sampling(float(temperature), float(top_p), int(top_k), official=True)
        possible = np.flatnonzero(_weights(logits, how))
        assert set(golden["drawn"][i]) <= set(possible)


def test_generation_with_penalties_equals_the_official_loop():
    """`PIPELINE.generate` on a fixed table of logits, recorded: top_p 0, penalties with decay."""
    golden = _golden()
    tokenizer = get_tokenizer("world")
    table = golden["table"]  # the model's logits by token % 16
    vocab = table.shape[1]
    weights = sampling.token_weights(tokenizer, vocab)
    how = sampling.official(top_p=0.0, presence=0.4, frequency=0.4, decay=0.9, banned=(0, 17))
    rows, seen, tokens, last = sampling.row(how, vocab), {}, [], int(golden["start"])
    random = np.random.RandomState(0)
    for _ in golden["generated"]:
        logits = table[last % 16]
        drawn, rows = _draw(logits[None], rows, weights)
        assert int(drawn[0]) == oracle.sample(logits, how, seen, random)
        last = int(drawn[0])
        oracle.count(last, how, seen, weights)
        tokens.append(last)
    np.testing.assert_array_equal(tokens, golden["generated"])


def test_the_official_package_itself():
    """Where torch and the official package are installed: the recorded numbers are theirs."""
    pytest.importorskip("torch")
    pytest.importorskip("rwkv")
    from tests.rwkvjax.sampling import make_official_sampler

    for name, values in make_official_sampler.record().items():
        np.testing.assert_array_equal(values, _golden()[name], err_msg=name)


def test_token_weights():
    weights = sampling.token_weights(ByteTokenizer(), 256)
    assert set(np.flatnonzero(weights == 0)) == set(b" \t0123456789")
    tokenizer = get_tokenizer("world")
    weights = sampling.token_weights(tokenizer, 65536)
    zero = np.flatnonzero(weights == 0)
    assert all(tokenizer.decode([i]) in " \t0123456789" for i in zero)
    sample = np.random.default_rng(0).choice(65529, 3000, replace=False)
    for i in sample:
        try:
            text = tokenizer.decode([i])
        except ValueError:
            continue
        assert (text in " \t0123456789") == (weights[i] == 0)
