# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding, beams, language models, edit distance: each against plain loops."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rwkvjax
from core import params as params_lib
from snn import cells, rwkv_cells
from snn.speech import beam, greedy, language, scoring
from snn.speech.beam import BeamConfig
from tests.snn import speech_oracle

NET = speech_oracle.small_net()
TIME = 9


def encoder_outputs(seed, time=TIME, scale=2.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(time, 7)) * scale, jnp.float32)


@jax.jit
def decode_rows(params, e, frames):
    return greedy.decode(NET, params, e, frames, max_symbols=2, window=4)[0]


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_the_plain_loop(seed):
    """Rows of several lengths; a cap of two labels a frame, which is reached."""
    params = speech_oracle.random_params(NET, seed)
    e = jnp.stack([encoder_outputs(seed + 100 * row) for row in range(3)])
    frames = jnp.array([TIME, 5, 1])
    out = decode_rows(params, e, frames)
    for row, length in enumerate(frames):
        labels, at = speech_oracle.greedy(NET, params, e[row, : int(length)], 2)
        count = int(out.counts[row])
        assert out.labels[row, :count].tolist() == labels
        assert out.frames[row, :count].tolist() == at


def test_the_cap_is_reached_in_these_tests():
    found = []
    for seed in range(8):
        _, at = speech_oracle.greedy(
            NET, speech_oracle.random_params(NET, seed), encoder_outputs(seed), 2
        )
        found += [len(list(group)) for _, group in itertools.groupby(at)]
    assert max(found) == 2 and min(found) == 1


@pytest.mark.parametrize("window", [1, 3, 20])
def test_pieces_and_windows_change_nothing(window):
    params = speech_oracle.random_params(NET, 3)
    e = encoder_outputs(3)[None]
    whole, _ = greedy.decode(NET, params, e, jnp.array([TIME]), max_symbols=3, window=window)
    carry, labels, frames = None, [], []
    for first in range(0, TIME, 2):
        part = e[:, first : first + 2]
        out, carry = greedy.decode(
            NET, params, part, jnp.array([part.shape[1]]), carry, max_symbols=3, window=window
        )
        count = int(out.counts[0])
        labels += out.labels[0, :count].tolist()
        frames += (out.frames[0, :count] + first).tolist()
    count = int(whole.counts[0])
    assert count > 0
    assert labels == whole.labels[0, :count].tolist()
    assert frames == whole.frames[0, :count].tolist()


# --- beams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [beam.alsd, beam.tsd])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_unlimited_beam_is_exact(search, seed):
    """log P of every string of at most three labels, to the precision of float32 logits."""
    net = speech_oracle.small_net(labels=3)
    params = speech_oracle.random_params(net, seed, scale=0.7)
    e = encoder_outputs(seed, time=3, scale=1.0)
    cfg = BeamConfig(beam=10_000, max_labels=3, max_symbols=4)
    found = {h.labels: h.log_prob for h in search(net, params, e, cfg)}
    strings = [s for n in range(4) for s in itertools.product((1, 2), repeat=n)]
    for labels in strings:
        expected = speech_oracle.log_prob(net, params, e, labels)
        assert found[labels] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("search", [beam.alsd, beam.tsd])
def test_a_small_beam_finds_the_likeliest_string(search):
    """More often than greedy decoding does; which it is, an unlimited beam knows."""
    net = speech_oracle.small_net(labels=3)
    by_beam = by_greedy = 0
    for seed in range(8):
        params = speech_oracle.random_params(net, seed, scale=0.7)
        e = encoder_outputs(seed, time=4, scale=1.0)
        every = search(net, params, e, BeamConfig(beam=10_000, max_labels=4, max_symbols=4))
        best = max((h for h in every if len(h.labels) <= 4), key=lambda h: h.log_prob)
        found = search(net, params, e, BeamConfig(beam=4, max_labels=4, max_symbols=4))[0]
        assert found.log_prob <= speech_oracle.log_prob(net, params, e, found.labels) + 1e-5
        assert len(found.frames) == len(found.labels) and list(found.frames) == sorted(found.frames)
        by_beam += found.labels == best.labels
        by_greedy += tuple(speech_oracle.greedy(net, params, e, 4)[0]) == best.labels
    assert by_beam >= 4 and by_beam > by_greedy + 1, (by_beam, by_greedy)


def test_bad_beams_are_named():
    with pytest.raises(ValueError, match="beam >= 1"):
        BeamConfig(beam=0)
    with pytest.raises(ValueError, match="one utterance"):
        beam.alsd(NET, speech_oracle.random_params(NET), jnp.zeros((1, 3, 7)))


# --- language models ------------------------------------------------------------------------------


def test_ngrams_by_hand():
    """Two sentences over labels 1, 2: Witten-Bell on paper."""
    model = language.Ngram([[1, 2], [1, 1]], labels=4, order=2)
    unigram = np.array([0, (3 + 2 / 3) / 6, (1 + 2 / 3) / 6, (2 / 3) / 6])
    np.testing.assert_allclose(model.probabilities(()), unigram)
    # After 1: 2 and 1, once each; two types.
    after = (np.array([0, 1, 1, 0]) + 2 * unigram) / 4
    state, scores = model.step(model.start()[0], 1)
    assert state == (1,)
    np.testing.assert_allclose(np.exp(scores), after, atol=1e-12)
    # After 3, which was never seen, the shorter context decides.
    np.testing.assert_allclose(np.exp(model.step(state, 3)[1]), unigram, atol=1e-12)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(1, 4), max_size=6), min_size=1, max_size=5), st.integers(1, 4))
def test_ngrams_are_distributions(sequences, order):
    model = language.Ngram(sequences, labels=5, order=order)
    state, scores = model.start()
    for label in (1, 3, 3, 2):
        assert np.exp(scores[1:]).sum() == pytest.approx(1.0)
        state, scores = model.step(state, label)


@pytest.mark.parametrize("search", [beam.alsd, beam.tsd])
def test_fusion_ranks_by_the_sum(search):
    """With an unlimited beam the best string is the best sum over all strings."""
    net = speech_oracle.small_net(labels=3)
    params = speech_oracle.random_params(net, 0, scale=0.7)
    e = encoder_outputs(0, time=3, scale=1.0)
    model = language.Ngram([[2, 2, 2], [2, 1]], labels=3)
    cfg = BeamConfig(beam=10_000, max_labels=3, lm_weight=1.5, label_bonus=0.3, max_symbols=3)

    def total(labels):
        state, scores = model.start()
        value = speech_oracle.log_prob(net, params, e, labels) + 0.3 * len(labels)
        for label in labels:
            value += 1.5 * scores[label]
            state, scores = model.step(state, label)
        return value

    strings = [s for n in range(4) for s in itertools.product((1, 2), repeat=n)]
    expected = max(strings, key=total)
    found = [h for h in search(net, params, e, cfg, model) if len(h.labels) <= 3][0]
    assert found.labels == expected and found.score == pytest.approx(total(expected), abs=1e-4)
    assert max(strings, key=lambda s: speech_oracle.log_prob(net, params, e, s)) != expected


def test_an_rwkv_model_is_a_language_model():
    cfg = rwkvjax.Config(version="4", vocab_size=NET.labels, dim=8, layers=1)
    params = rwkvjax.init(jax.random.key(0), cfg)
    model = language.Recurrent(rwkv_cells.stack(cfg), rwkv_cells.stack_params(cfg, params))
    _, first = model.start()
    assert np.exp(first).sum() == pytest.approx(1.0, abs=1e-5)
    found = beam.alsd(
        NET,
        speech_oracle.random_params(NET, 1),
        encoder_outputs(1),
        BeamConfig(beam=2, lm_weight=0.5, max_labels=4),
        model,
    )
    assert len(found) == 2 and math.isfinite(found[0].score)
    # The score is the sum that the configuration asks for.
    state, scores = model.start()
    total = found[0].log_prob
    for label in found[0].labels:
        total += 0.5 * scores[label]
        state, scores = model.step(state, label)
    assert found[0].score == pytest.approx(total, abs=1e-4)


def test_any_cells_are_a_language_model():
    net = cells.Stack((cells.Embedding(4, 3), cells.Snu(3, 5, fire="sigmoid"), cells.Dense(5, 4)))
    params = params_lib.init(net.param_specs(), jax.random.key(0))
    model = language.Recurrent(net, params)
    state, _ = model.start()
    _, scores = model.step(state, 2)
    _, logits = cells.unroll(net, params, net.init_state(1), jnp.array([[0], [2]]))
    np.testing.assert_allclose(scores, jax.nn.log_softmax(logits[-1, 0]), atol=1e-6)


# --- errors ---------------------------------------------------------------------------------------


def plain_distance(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        changed = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
        table[i, j] = min(changed, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[-1, -1]


def test_edit_distance_is_the_plain_table():
    rng = np.random.default_rng(0)
    found, wanted = rng.integers(1, 4, (40, 7)), rng.integers(1, 4, (40, 5))
    n, m = rng.integers(0, 8, 40), rng.integers(0, 6, 40)
    distances = jax.jit(scoring.edit_distance)(*(jnp.asarray(x) for x in (found, n, wanted, m)))
    expected = [plain_distance(found[i, : n[i]], wanted[i, : m[i]]) for i in range(40)]
    assert distances.tolist() == expected


def test_word_errors_by_hand():
    pytest.importorskip("jiwer")
    score = scoring.score(["one two three", "four", ""], ["one too three", "four five", "six"])
    assert (score.substitutions, score.deletions, score.insertions, score.words) == (1, 0, 2, 4)
    assert score.wer == pytest.approx(3 / 4)
    # "two" -> "too" is one letter, " five" are five, "six" three; 17 letters were said.
    assert score.cer == pytest.approx(9 / 17)
    assert "two" in score.alignment
    with pytest.raises(ValueError, match="no reference"):
        scoring.score([""], ["a"])
    with pytest.raises(ValueError, match="1 references and 2"):
        scoring.score(["a"], ["a", "b"])
