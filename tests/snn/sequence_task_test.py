# SPDX-License-Identifier: Apache-2.0
"""Sequence tasks: losses by hand, layer-wise unrolling, methods through the loop, whole runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from core import config as config_lib
from core import params as params_lib
from snn import cells
from snn import train as train_program
from snn.tasks import networks, problems, sequence, sequence_run

STEPS, ROWS = 7, 3


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def random_params(net, seed=0):
    """Every parameter random, so that none is without effect."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda spec: jnp.asarray(rng.normal(size=spec.shape) * 0.5),
        net.param_specs(),
        is_leaf=params_lib.is_spec,
    )


@pytest.mark.parametrize("cell", sorted(networks.CELLS))
def test_layer_by_layer_equals_step_by_step(float64, cell):
    cfg = networks.NetworkConfig(
        (cell, "ssnu"), (5, 4), recurrent=cell != "lru", decay=0.7, train_decay=True
    )
    net = networks.build_network(cfg, 6, 2)
    params = random_params(net)
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(STEPS, ROWS, 6)))
    start = net.init_state(ROWS, jnp.float64)
    state, ys = cells.unroll(net, params, start, xs)
    found, outputs, traces = networks.apply(net, params, start, xs)
    np.testing.assert_allclose(outputs, ys, rtol=1e-12, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, state)
    last = jax.tree.map(lambda x: x[-1], traces["layer_0"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), last, state[0])


def test_tied_network_reads_tokens():
    net = networks.build_network(networks.NetworkConfig(hidden=(4,), embedding=3), 11, 11)
    params = params_lib.init(net.param_specs(), jax.random.key(0))
    assert params["layer_0"]["w"].shape == (11, 3) and "w" not in params["layer_3"]
    tokens = jnp.asarray([[1, 2], [3, 4]])
    _, ys, _ = networks.apply(net, params, net.init_state(2), tokens)
    _, expected = cells.unroll(net, params, net.init_state(2), tokens)
    np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="as many tokens in"):
        networks.build_network(networks.NetworkConfig(embedding=3), 11, 12)


# --- problems -----------------------------------------------------------------------------------


def notes_batch():
    rng = np.random.default_rng(0)
    batch = {k: rng.integers(0, 2, (ROWS, STEPS, 88)).astype(np.uint8) for k in ("x", "target")}
    weight = np.ones((ROWS, STEPS), np.float32)
    weight[1, 4:] = 0
    return {**batch, "weight": weight}


def test_note_likelihood_by_hand():
    problem, batch = problems.NextNotes(), notes_batch()
    xs, targets, weights = problem.encode(
        {k: jnp.asarray(v) for k, v in batch.items()}, jax.random.key(0)
    )
    assert xs.shape == (STEPS, ROWS, 88) and weights.shape == (STEPS, ROWS)
    logits = np.random.default_rng(1).normal(size=(STEPS, ROWS, 88))
    p = 1 / (1 + np.exp(-logits))
    by_key = np.where(np.asarray(targets) == 1, np.log(p), np.log1p(-p))
    nll = -by_key.sum(axis=-1)
    sums = {k: float(v) for k, v in problem.sums(jnp.asarray(logits), targets, weights).items()}
    scores = problem.scores(sums)
    w = np.asarray(weights)
    assert scores["nll"] == pytest.approx((nll * w).sum() / w.sum(), rel=1e-5)
    pieces = (nll * w).sum(axis=0) / w.sum(axis=0)
    assert scores["piece_nll"] == pytest.approx(pieces.mean(), rel=1e-5)


def test_frames_words_and_digits_are_scored_by_hand():
    ys = jnp.log(jnp.asarray([[[0.7, 0.2, 0.1]], [[0.1, 0.3, 0.6]], [[0.2, 0.5, 0.3]]]))
    targets, weights = jnp.asarray([[0], [1], [0]]), jnp.asarray([[1.0], [1.0], [0.0]])
    expected = -(np.log(0.7) + np.log(0.3)) / 2
    frames = problems.Frames(4, 3, fold=(0, 1, 1))
    scores = frames.scores({k: float(v) for k, v in frames.sums(ys, targets, weights).items()})
    assert scores == pytest.approx({"nll": expected, "accuracy": 0.5, "folded_accuracy": 1.0})
    words = problems.NextToken(3, 3)
    scores = words.scores({k: float(v) for k, v in words.sums(ys, targets, weights).items()})
    assert scores["perplexity"] == pytest.approx(np.exp(expected))
    byte = problems.NextToken(3, 3, "byte").scores({"nll": 2.0, "steps": 1.0})
    assert byte["bits_per_byte"] == pytest.approx(2 / np.log(2))
    digits = problems.Digits("rows", height=3, width=2, classes=3, answer=2)
    found = digits.sums(ys, jnp.asarray([[2], [2], [2]]), jnp.asarray([[0.0], [1.0], [1.0]]))
    assert float(found["correct"]) == 1.0  # the mean of the two last steps is largest for class 2
    pooled = problems.Digits("rows", height=3, width=2, classes=3, answer=2, readout="mean")
    found = pooled.sums(ys, jnp.asarray([[2], [2], [2]]), jnp.asarray([[0.0], [1.0], [1.0]]))
    mean = np.log([0.1 * 0.2, 0.3 * 0.5, 0.6 * 0.3]) / 2
    assert float(found["nll"]) == pytest.approx(np.log(np.exp(mean).sum()) - mean[2], rel=1e-5)
    assert float(found["steps"]) == 1.0
    net = networks.build_network(networks.NetworkConfig(hidden=(4,), recurrent=False), 2, 3)
    with pytest.raises(ValueError, match="no sum over time steps"):
        sequence.SequenceTask(pooled, net, method=sequence.MethodConfig("ostl"))


def test_rate_code_has_the_asked_rate_and_rows_are_rows():
    image = np.zeros((2, 4, 4), np.uint8)
    image[:, 1, 2] = 255
    image[:, 0, 0] = 51
    batch = {"x": jnp.asarray(np.repeat(image, 2000, axis=0)), "target": jnp.zeros(4000, jnp.int32)}
    rate = problems.Digits("rate", steps=20, spikes=6.0, height=4, width=4)
    xs, targets, weights = rate.encode(batch, jax.random.key(3))
    counts = np.asarray(xs).sum(axis=0).mean(axis=0).reshape(4, 4)
    assert counts[1, 2] == pytest.approx(6.0, abs=0.2)
    assert counts[0, 0] == pytest.approx(1.2, abs=0.1)
    assert counts.sum() == pytest.approx(counts[1, 2] + counts[0, 0])
    assert targets.shape == weights.shape == (20, 4000) and float(weights.min()) == 1.0
    rows = problems.Digits("rows", height=4, width=4, answer=1)
    xs, _, weights = rows.encode(batch, jax.random.key(3))
    assert np.allclose(xs[1, 0], [0, 0, 1, 0]) and weights[:, 0].tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="spikes must be in"):
        problems.Digits("rate", steps=5, spikes=6.0)


# --- the task -----------------------------------------------------------------------------------


def notes_task(method="bptt", loss=None, recurrent=False):
    net = networks.build_network(networks.NetworkConfig(hidden=(6,), recurrent=recurrent), 88, 88)
    method = sequence.MethodConfig(method)
    return sequence.SequenceTask(problems.NextNotes(), net, loss, method)


def gradients(task, params, key=0):
    batch = {k: jnp.asarray(v) for k, v in notes_batch().items()}
    return task.grads(params, task.init_carry(ROWS), batch, jax.random.key(key))


def test_reductions_differ_by_the_number_of_steps():
    mean, total = (notes_task(loss=sequence.LossConfig(reduction=r)) for r in ("mean", "sum"))
    params = random_params(mean.net)
    ((a, (_, aux)), grads), ((b, (_, other)), sums) = (gradients(t, params) for t in (mean, total))
    assert float(b) == pytest.approx(float(a) * 18 / ROWS, rel=1e-5)  # 18 weighted steps
    assert float(aux["nll"]) == pytest.approx(float(other["nll"]), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x * 6, rtol=2e-4), grads, sums)


def test_dropout_drops_inputs_of_layers_and_keeps_the_mean():
    task = notes_task(loss=sequence.LossConfig(dropout=0.5, input_dropout=0.25), recurrent=True)
    params = jax.tree.map(jnp.ones_like, random_params(task.net))
    masks = jax.vmap(lambda k: task.drop(params, k))(jax.random.split(jax.random.key(0), 400))
    top, bottom = masks["layer_1"]["w"], masks["layer_0"]["w"]
    assert set(np.unique(top)) == {0.0, 2.0} and np.all(top == top[..., :1])
    assert float(top.mean()) == pytest.approx(1, abs=0.06)
    assert float(bottom.mean()) == pytest.approx(1, abs=0.02)
    assert np.all(np.asarray(masks["layer_0"]["h"]) == 1)
    (_, grads), (_, again) = (gradients(task, params, key) for key in (1, 2))
    assert not np.allclose(grads["layer_1"]["w"], again["layer_1"]["w"])


def test_ostl_through_the_task_is_exact_for_one_feed_forward_layer(float64):
    loss = sequence.LossConfig(dropout=0.3, reduction="sum")
    back, online = (notes_task(m, loss) for m in ("bptt", "ostl"))
    params = random_params(back.net)
    ((a, (_, aux)), expected), ((b, (_, other)), found) = (
        gradients(t, params) for t in (back, online)
    )
    np.testing.assert_allclose([b, other["nll"]], [a, aux["nll"]], rtol=1e-6)  # float32 inputs
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("method", ["bptt", "ostl"])
def test_state_is_carried_between_windows(method):
    loss = sequence.LossConfig(carry_state=True)
    net = networks.build_network(networks.NetworkConfig(hidden=(5,), embedding=3), 9, 9)
    method = sequence.MethodConfig(method)
    task = sequence.SequenceTask(problems.NextToken(9, 9), net, loss, method)
    params = params_lib.init(net.param_specs(), jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 9, (2, 9))
    batch = lambda a, b: {
        "x": jnp.asarray(tokens[:, a:b]),
        "target": jnp.asarray(tokens[:, a + 1 : b + 1]),
        "weight": jnp.ones((2, b - a)),
    }
    key = jax.random.key(0)
    (whole, _), _ = task.grads(params, task.init_carry(2), batch(0, 8), key)
    (first, (carry, _)), _ = task.grads(params, task.init_carry(2), batch(0, 4), key)
    (second, _), _ = task.grads(params, carry, batch(4, 8), key)
    assert float(whole) == pytest.approx((float(first) + float(second)) / 2, rel=1e-5)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="method must be bptt or one of"):
        sequence.MethodConfig("magic")
    with pytest.raises(ValueError, match="options of method 'ostl'"):
        sequence.MethodConfig("ostl", (("depth", 1),))
    with pytest.raises(ValueError, match="bptt takes no options"):
        sequence.MethodConfig("bptt", (("k", 1),))
    with pytest.raises(ValueError, match="reduction must be"):
        sequence.LossConfig(reduction="max")
    with pytest.raises(ValueError, match="dropout must be in"):
        sequence.LossConfig(dropout=1.0)
    with pytest.raises(ValueError, match="cell must be one name"):
        networks.NetworkConfig(cell=("ssnu", "lstm"), hidden=(3, 3, 3))
    with pytest.raises(config_lib.ConfigError, match="config.task must be one of"):
        sequence_run.build_config({"task": "opera"})
    with pytest.raises(config_lib.ConfigError, match="Did you mean 'coding'"):
        train = {"steps": 1, "batch_size": 1}
        sequence_run.build_config({"task": "digits", "train": train, "data": {"codng": "rows"}})


# --- whole runs ---------------------------------------------------------------------------------

TRAIN = {"steps": 30, "batch_size": 8, "log_every": 5, "keep": 1}
RUNS = {
    "chorales": {"data": {"pieces": 8, "eval_batch_size": 8}},
    "digits": {
        "data": {"name": "digits", "coding": "rows", "answer": 2},
        "model": {"cell": ("snu",)},
        "method": {"name": "ostl"},
    },
    "phonemes": {"data": {"utterances": 3, "eval_batch_size": 3}, "model": {"cell": ("alif",)}},
    "language": {
        "data": {"unit": "byte", "tokens": 2000, "context": 16},
        "model": {"embedding": 8, "hidden": (16,)},
        "loss": {"carry_state": True},
    },
}


@pytest.mark.parametrize("kind", RUNS)
def test_every_task_trains_through_the_loop(tmp_path, kind):
    pytest.importorskip("matplotlib")
    if kind == "digits":
        pytest.importorskip("sklearn")
    blocks = {k: dict(v) for k, v in RUNS[kind].items()}
    model = {"hidden": (12,), **blocks.pop("model", {})}
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 1}
    config = {"task": kind, "model": model, "optimizer": optimizer, "train": TRAIN, **blocks}
    try:
        train_program.main(ConfigDict(config), str(tmp_path))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [r["nll"] for r in records if "nll" in r]
    assert losses[-1] < 0.97 * losses[0]
    report = json.loads((tmp_path / "report.json").read_text())
    assert np.isfinite([report["valid_nll"], report["test_nll"]]).all()
    assert report["method"] == blocks.get("method", {"name": "bptt"})["name"]
    assert report["parameters_of_step"] == 30
    for picture in ("loss.png", "raster.png", "membranes.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", sorted(sequence.METHODS))
def test_every_method_goes_through_the_task(method):
    task = notes_task(method)
    params = random_params(task.net)
    (value, _), grads = gradients(task, params)
    (expected, _), exact = gradients(notes_task(), params)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    # Nothing stateful lies above the readout: its gradient is the same for every method.
    for name, g in exact["layer_1"].items():
        np.testing.assert_allclose(grads["layer_1"][name], g, rtol=1e-3, atol=1e-5)
    assert all(float(jnp.abs(g).max()) > 0 for g in grads["layer_0"].values())
