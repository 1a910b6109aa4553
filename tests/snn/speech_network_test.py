# SPDX-License-Identifier: Apache-2.0
"""The network, its published sizes and its costs; streams against whole utterances."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params as params_lib
from snn import cells
from snn.speech import accounting
from snn.speech.features import FeatureConfig
from snn.speech.network import Transducer, TransducerConfig
from snn.speech.recogniser import Recogniser, Stream
from snn.speech.tokenizer import Tokenizer
from snn.tasks import transducer_run
from snn.tasks.networks import CELLS as CELL_BUILDERS
from snn.tasks.networks import NetworkConfig
from tests.snn import speech_oracle

CELLS = ("lstm", "threshold_ssnu", "output_snu")


def get_config(repo, name, arg):
    path = repo / f"configs/snn/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return transducer_run.build_config(module.get_config(arg))


# --- sizes ----------------------------------------------------------------------------------------

# A library with two biases for each gate has so many more (12 layers of 640 and one of 768).
SECOND_BIASES = 4 * (12 * 640 + 768)


@pytest.mark.parametrize(
    ("cell", "millions"), [("lstm", 57.16), ("ssnu", 14.69), ("output_ssnu", 28.83)]
)
def test_published_sizes(repo, cell, millions):
    """57 164 282 parameters of the LSTM, and those of the units that replace it."""
    cfg = get_config(repo, "asr_paper", cell).model
    plain = dataclasses.replace(cfg.encoder, train_decay=False, decay_range=())
    cfg = dataclasses.replace(
        cfg, encoder=plain, prediction=dataclasses.replace(plain, hidden=(768,))
    )
    size = params_lib.count(Transducer(cfg, inputs=340, labels=46).param_specs())
    assert (size + (SECOND_BIASES if cell == "lstm" else 0)) / 1e6 == pytest.approx(
        millions, abs=0.005
    )
    if cell == "lstm":
        assert size + SECOND_BIASES == 57_164_282


@pytest.mark.parametrize(
    ("name", "arg"), [("asr_fsdd", "output_ssnu,92"), ("asr_an4", "lstm"), ("asr_paper", "lstm")]
)
def test_configurations_build(repo, name, arg):
    cfg = get_config(repo, name, arg)
    net = Transducer(cfg.model, cfg.features.size, 30)
    assert params_lib.count(net.param_specs()) > 10_000


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell, bidirectional):
    net = speech_oracle.small_net(cell, bidirectional=bidirectional)
    params = speech_oracle.random_params(net, scale=0.5)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 5)), jnp.float32)
    frames = jnp.array([8, 5])
    y, _ = net.encode(params, x, frames)
    assert y.shape == (2, 8, net.encoder_size)
    alone, _ = net.encode(params, x[1:, :5], frames[1:])
    np.testing.assert_allclose(y[1, :5], alone[0], atol=1e-5)
    if bidirectional:
        # Outputs know the last input, and nothing beyond it.
        later, _ = net.encode(params, x.at[:, 4].add(3.0), frames)
        assert np.abs(later[1] - y[1])[:5].max() > 1e-4
        beyond, _ = net.encode(params, x.at[:, 6].add(1.0), frames)
        np.testing.assert_array_equal(beyond[1, :5], y[1, :5])


@pytest.mark.parametrize("joint", ["multiplicative", "additive"])
def test_joint_by_hand(joint):
    net = speech_oracle.small_net(joint=joint)
    params = speech_oracle.random_params(net)
    rng = np.random.default_rng(1)
    e, p = (jnp.asarray(rng.normal(size=(2, n, 7)), jnp.float32) for n in (3, 4))
    logits = net.joint(params, e, p)
    assert logits.shape == (2, 3, 4, 4)
    mixed = e[1, 2] * p[1, 3] if joint == "multiplicative" else e[1, 2] + p[1, 3]
    expected = np.tanh(mixed) @ params["output"]["w"] + params["output"]["bias"]
    np.testing.assert_allclose(logits[1, 2, 3], expected, rtol=1e-5)


def test_prediction_label_by_label():
    net = speech_oracle.small_net("threshold_ssnu")
    params = speech_oracle.random_params(net)
    labels = jnp.array([[1, 3, 2], [2, 2, 1]])
    whole = net.predict(params, labels)
    state, p = net.start(params, 2)
    np.testing.assert_allclose(p, whole[:, 0], atol=1e-5)
    for u in range(3):
        state, p = net.predict_step(params, state, labels[:, u])
        np.testing.assert_allclose(p, whole[:, u + 1], atol=1e-5)


def test_gain_amplifies_what_reads_cells():
    net = speech_oracle.small_net()
    loud = Transducer(dataclasses.replace(net.cfg, gain=3.0), net.inputs, net.labels)
    scales = lambda n: {
        k: getattr(v.init, "scale", None) for k, v in params_lib.flatten(n.param_specs())
    }
    before, after = scales(net), scales(loud)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {
        "encoder/layer_0/w",
        "encoder/layer_1/w",
        "prediction/layer_1/w",
        "encoder_joint/w",
        "prediction_joint/w",
    }
    assert all(after[path] == 3 * before[path] for path in changed)


def test_bad_networks_are_named():
    with pytest.raises(ValueError, match="gain must be positive"):
        TransducerConfig(gain=0.0)
    with pytest.raises(ValueError, match="joint must be one of"):
        TransducerConfig(joint="concatenated")
    with pytest.raises(ValueError, match="prediction takes no embedding"):
        unit = dataclasses.replace(TransducerConfig().prediction, embedding=3)
        TransducerConfig(prediction=unit)


# --- streams --------------------------------------------------------------------------------------


def recogniser(cell, seed=0, **options):
    front_end = FeatureConfig(rate=8000, bands=5, deltas=1, stack=2, skip=2)
    net = speech_oracle.small_net(cell, inputs=front_end.size, **options)
    params = speech_oracle.random_params(net, seed)
    return Recogniser(net, params, front_end, Tokenizer("characters", (" ", "a", "b")))


def speech(seconds=1.5):
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * 8000)) / 8000
    loud = np.sin(2 * np.pi * 3 * t) > 0
    return (rng.normal(size=len(t)) * np.where(loud, 3000, 50)).astype(np.float32)


@pytest.mark.parametrize("cell", ["lstm", "output_snu", "threshold_ssnu"])
def test_a_stream_says_what_the_whole_says(cell):
    model = recogniser(cell)
    samples = speech()
    whole = model.transcribe(samples)
    assert len(whole.labels) > 3
    stream = Stream(model)
    partial = [stream.feed(samples[i : i + 700]) for i in range(0, len(samples), 700)]
    final = stream.finish()
    assert final == whole
    assert len({p.labels for p in partial}) > 3, "partial results come before the end"
    assert all(final.labels[: len(p.labels)] == p.labels for p in partial)


def test_words_have_times():
    model = recogniser("lstm")
    found = model.transcript([2, 3, 1, 2], [0, 4, 5, 30])
    assert found.text == "ab a"
    # A stacked frame is 20 ms after the one before, and 35 ms long.
    assert [(w.text, w.start, w.end) for w in found.words] == [
        ("ab", 0.0, 0.115),
        ("a", 0.6, 0.635),
    ]


def test_silence_short_sound_and_hours():
    model = recogniser("output_snu")
    assert model.transcribe(np.zeros(100, np.float32)).text == ""
    assert isinstance(model.transcribe(np.zeros(8000, np.float32)).text, str)
    stream = Stream(model)
    for _ in range(20):  # what is kept does not grow with the sound
        stream.feed(speech(0.5))
    kept = sum(x.size for x in (stream._features._samples, stream._features._base))
    assert kept < 2000
    with pytest.raises(ValueError, match="finite samples"):
        model.transcribe(np.array([np.inf]))
    with pytest.raises(ValueError, match="unidirectional"):
        Stream(recogniser("lstm", bidirectional=True))


def test_search_finds_no_worse_than_greedy():
    model = recogniser("ssnu")
    samples = speech(0.4)
    best = model.search(samples, method="tsd")[0]
    assert best.log_prob is not None and len(best.frames) == len(best.labels)
    with pytest.raises(ValueError, match="method must be one of"):
        model.search(samples, method="astar")


# --- costs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "dense"),
    [
        (cells.Lstm(5, 7), 4 * 7 * 12 + 3 * 7),
        (cells.Gru(5, 7), 3 * 7 * 12 + 3 * 7),
        (cells.Snu(5, 7, recurrent=True), 7 * 12 + 2 * 7),
        (cells.Snu(5, 7), 7 * 5 + 2 * 7),
        (cells.ThresholdModulated(5, 7, recurrent=True), 2 * 7 * 12 + 5 * 7),
        (cells.OutputModulated(5, 7, recurrent=True), 2 * 7 * 12 + 3 * 7),
    ],
)
def test_multiplications_of_a_unit(cell, dense):
    assert accounting.step_cost(cell)[0] == dense


def test_spikes_save_multiplications():
    """Binary spikes cost none, gated ones as many as there are."""
    snu = cells.Snu(5, 7, recurrent=True, fire="step")
    assert accounting.step_cost(snu, "graded", 1.0, 0.5)[1] == 7 * 5 + 14
    assert accounting.step_cost(snu, "binary", 0.2, 0.5)[1] == 14
    gated = cells.OutputModulated(5, 7, recurrent=True, fire="step")
    assert accounting.signal_kind(gated) == "gated"
    assert accounting.step_cost(gated, "gated", 0.25, 0.5)[1] == 2 * 7 * (5 / 4 + 7 / 2) + 21
    with pytest.raises(NotImplementedError, match="no operation count of Dense"):
        accounting.step_cost(cells.Dense(5, 7))


def test_every_cell_has_a_cost():
    """A run reports it when the training is over: too late to learn that there is none."""
    cfg = NetworkConfig(recurrent=False)
    for name, build in CELL_BUILDERS.items():
        dense, _ = accounting.step_cost(build(5, 7, cfg))
        assert dense >= 7 * 5, name


def test_the_account_holds_every_parameter():
    net = speech_oracle.small_net("output_snu", inputs=10, bidirectional=True)
    front_end = FeatureConfig(rate=8000, bands=5, stack=2, skip=2)
    params = speech_oracle.random_params(net)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 10)), jnp.float32)
    labels, counts = jnp.array([[1, 2], [3, 1]]), jnp.array([2, 1])
    rates = accounting.firing_rates(net, params, x, jnp.array([6, 4]), labels, counts)
    assert set(rates) == {
        *(f"encoder/{way}_{i}" for way in ("forward", "backward") for i in (0, 1)),
        "prediction/layer_1",
    }
    assert all(0 <= rate <= 1 for rate in rates.values())
    assert any(0 < rate < 1 for rate in rates.values())
    parts = accounting.account(net, front_end, 3.0, rates)
    assert sum(p.parameters for p in parts) == params_lib.count(net.param_specs())
    by_name = {p.name: p for p in parts}
    # 50 steps a second, both ways, 6 units with 10 inputs and 6 from each other.
    assert by_name["encoder 0"].multiplications == 50 * 2 * (2 * 6 * 16 + 3 * 6)
    assert by_name["encoder 1"].multiplications == 50 * 2 * (2 * 5 * 17 + 3 * 5)
    assert by_name["encoder_joint"].multiplications == 50 * 10 * 7
    assert by_name["prediction_joint"].multiplications == 3 * 4 * 7
    assert by_name["output"].multiplications == 53 * (7 * 4 + 7)
    assert by_name["encoder 0"].spikes == pytest.approx(
        50 * 6 * (rates["encoder/forward_0"] + rates["encoder/backward_0"])
    )
    total = accounting.totals(parts)
    assert total["event_multiplications_per_second"] < total["multiplications_per_second"]
    assert "| encoder 0 | OutputModulated | 12 |" in accounting.table(parts)


def test_ctc_leaves_out_what_it_cannot_align():
    """Two equal labels need three frames; optax would give such a row a loss of about 1e5."""
    from snn.tasks.transducer import TransducerTask

    net = speech_oracle.small_net("lstm", ctc=True)
    task = TransducerTask(net, FeatureConfig(rate=8000, bands=5))
    batch = {"labels": jnp.array([[2, 2], [2, 2], [2, 1]]), "counts": jnp.array([2, 2, 2])}
    encoded = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
    params = speech_oracle.random_params(net, scale=0.3)
    losses = task.ctc_losses(params, batch, encoded, jnp.array([2, 3, 2]))
    assert losses[0] == 0 and 0 < losses[1] < 50 and 0 < losses[2] < 50


def test_gradients_reach_every_parameter():
    """Through front end, both networks and the joint, for a spiking network with CTC."""
    from snn.tasks.transducer import LossConfig, TransducerTask

    front_end = FeatureConfig(rate=8000, bands=5, stack=2, skip=2)
    net = speech_oracle.small_net("output_snu", inputs=10, ctc=True)
    task = TransducerTask(net, front_end, LossConfig(dropout=0.1, ctc=0.3, block=3))
    batch = {
        "input": jnp.asarray(np.stack([speech(0.3), speech(0.3)])),
        "size": jnp.array([2400, 1800]),
        "labels": jnp.array([[1, 2], [3, 1]]),
        "counts": jnp.array([2, 1]),
        "weight": jnp.ones(2),
    }
    params = speech_oracle.random_params(net, scale=0.3)
    grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (value, (_, aux)), grads = grad(params, (), batch, jax.random.key(0))
    assert np.isfinite(value) and aux["weight"] == 2
    for path, gradient in params_lib.flatten(grads):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path
    # A row of weight zero counts for nothing.
    lone = {**batch, "weight": jnp.array([1.0, 0.0])}
    other = {**lone, "labels": batch["labels"].at[1].set(2)}
    plain = jax.jit(TransducerTask(net, front_end).loss)
    values = [plain(params, (), b, jax.random.key(0))[0] for b in (lone, other)]
    assert values[0] == values[1]
    with pytest.raises(ValueError, match="loss.ctc needs model.ctc"):
        TransducerTask(speech_oracle.small_net(), front_end, LossConfig(ctc=0.3))


@pytest.mark.parametrize("distortion", ({"warp": (1.2, 1.2)}, {"channel_db": 6.0}))
def test_spectra_are_distorted_in_training_only(distortion):
    from snn.speech.augment import AugmentConfig
    from snn.tasks.transducer import TransducerTask

    front_end = FeatureConfig(rate=8000, bands=5, normalise="none")
    net = Transducer(TransducerConfig(), front_end.size, 3)
    task = TransducerTask(net, front_end, augmentation=AugmentConfig(**distortion))
    sound = np.random.default_rng(0).normal(size=(1, 800)) * 1000
    batch = {"input": jnp.asarray(sound, jnp.float32), "size": jnp.array([800])}
    plain, frames = task.inputs(batch, None)
    distorted, same = task.inputs(batch, jax.random.key(0))
    np.testing.assert_array_equal(frames, same)
    assert np.abs(np.asarray(plain) - np.asarray(distorted)).max() > 0.1
    mfcc = FeatureConfig(kind="mfcc", rate=8000, bands=13)
    with pytest.raises(ValueError, match="need features of kind log_mel, got 'mfcc'"):
        TransducerTask(net, mfcc, augmentation=AugmentConfig(**distortion))
