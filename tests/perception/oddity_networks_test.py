# SPDX-License-Identifier: Apache-2.0
"""Visual oddity: saccades, OReN and the saccadic network against plain loops, losses, a run."""

import importlib
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import config as config_lib
from core import intervals
from core import params as params_lib
from perception import oddity_play, oddity_report, saccades
from perception import train as train_program
from perception.networks import FrameEncoder, Oren, Saccadic, layers
from perception.snn_cells import CellReader
from perception.tasks import oddity_mechanism, oddity_run, oddity_setup
from perception.tasks.oddity import OddityTask, OnlineOddityTask

pytestmark = pytest.mark.usefixtures("one_device")

sigmoid = lambda x: 1 / (1 + np.exp(-x))


class Codes:
    """An eye that is given the codes."""

    inputs = ("codes",)
    width = 5

    def param_specs(self):
        return {}

    def apply(self, params, inputs):
        return inputs["codes"]


def drawn(specs, seed=0):
    """Random values for every parameter, biases and decays included."""
    rng = np.random.default_rng(seed)
    shape = lambda spec: jnp.asarray(rng.normal(size=spec.shape) * 0.6, jnp.float32)
    return jax.tree.map(shape, specs, is_leaf=params_lib.is_spec)


def in_double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


# --- saccades -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("initial", "evaluation"), ((0, 6), (3, 6), (6, 6), (14, 12)))
def test_saccades_visit_frames(initial, evaluation):
    plan = saccades.plan(np.arange(200), initial, evaluation, seed=3)
    assert plan.shape == (200, initial + evaluation) and plan.dtype == np.int32
    for begin in range(initial, initial + evaluation, 6):
        assert (np.sort(plan[:, begin : begin + 6], axis=1) == np.arange(6)).all()
    for begin in range(0, initial, 6):
        part = np.sort(plan[:, begin : min(begin + 6, initial)], axis=1)
        assert (np.diff(part, axis=1) > 0).all()
    part = saccades.plan(np.arange(50, 60), initial, evaluation, seed=3)
    np.testing.assert_array_equal(part, plan[50:60])
    assert (saccades.plan(np.arange(200), initial, evaluation, seed=4) != plan).any()


def test_saccade_orders_are_uniform():
    plan = saccades.plan(np.arange(7200), 0, 6)
    _, counts = np.unique(plan, axis=0, return_counts=True)
    assert len(counts) == 720  # all orders occur; expected 10 each, sd 3.2
    chi_square = np.square(counts - 10).sum() / 10
    assert chi_square < 719 + 5 * (2 * 719) ** 0.5


@pytest.mark.parametrize(
    ("sizes", "message"), (((-1, 6), "at least 0"), ((6, 5), "multiple"), ((6, 0), "multiple"))
)
def test_unusable_saccades(sizes, message):
    with pytest.raises(ValueError, match=message):
        saccades.plan(np.arange(2), *sizes)


# --- networks against plain loops ---------------------------------------------------------------


def test_oren_sums_over_all_pairs():
    net = Oren(Codes(), relation=(7, 6), decision=(4,), dropout=0.5)
    params = drawn(net.param_specs())
    codes = np.random.default_rng(1).normal(size=(3, 6, 5)).astype(np.float32)
    apply = jax.jit(net.apply)
    scores = apply(params, {"codes": jnp.asarray(codes)})
    p = in_double(params)

    def mlp(part, x, last_linear):
        names = sorted(p[part])
        for name in names:
            x = x @ p[part][name]["weight"] + p[part][name]["bias"]
            if not (last_linear and name == names[-1]):
                x = np.maximum(x, 0)
        return x

    for b, i in itertools.product(range(3), range(6)):
        total = sum(
            mlp("g", np.concatenate([codes[b, i], codes[b, j]]).astype(float), False)
            for j in range(6)
            if j != i
        )
        np.testing.assert_allclose(scores[b, i], mlp("f", total, True)[0], rtol=2e-5, atol=2e-5)
    order = np.array([3, 1, 5, 0, 2, 4])  # scores move with their frames
    moved = apply(params, {"codes": jnp.asarray(codes[:, order])})
    np.testing.assert_allclose(moved, scores[:, order], rtol=2e-5, atol=2e-5)
    dropped = net.apply(params, {"codes": jnp.asarray(codes)}, jax.random.key(0))
    assert (dropped != scores).any()


def snu_by_hand(p, xs, soft):
    """Logits [S] and last membranes of one problem: two recurrent layers, then the decision."""
    sizes = [p[f"layer_{i}"]["w"].shape[1] for i in range(2)]
    s, y = [np.zeros(n) for n in sizes], [np.zeros(n) for n in sizes]
    logits, trace = [], []
    for x in xs:
        for i in range(2):
            own = p[f"layer_{i}"]
            s[i] = x @ own["w"] + y[i] @ own["h"] + 0.8 * s[i] * (1 - y[i])
            y[i] = sigmoid(s[i] + own["bias"]) if soft else (s[i] + own["bias"] > 0).astype(float)
            x = y[i]
        logits.append((x @ p["layer_2"]["w"] + p["layer_2"]["bias"]).item())
        trace.append(s[1].copy())
    return logits, trace


@pytest.mark.parametrize("cell", ("snu", "ssnu"))
def test_saccadic_network_is_the_plain_recurrence(cell):
    net = Saccadic(Codes(), CellReader(5 + 6, cell, size=4), evaluation=12)
    params = drawn(net.param_specs(), seed=2)
    codes = np.random.default_rng(3).normal(size=(3, 6, 5)).astype(np.float32)
    plan = saccades.plan(np.arange(3), 4, 12)
    scores = net.apply(params, {"codes": jnp.asarray(codes), "saccade": jnp.asarray(plan)})
    _, states = net.decide(params, jnp.asarray(codes), jnp.asarray(plan))
    p = in_double(params["reader"])
    for b in range(3):
        xs = [np.concatenate([codes[b, f], np.eye(6)[f]]).astype(float) for f in plan[b]]
        logits, trace = snu_by_hand(p, xs, cell == "ssnu")
        for frame in range(6):
            own = [logits[t] for t in range(4, 16) if plan[b, t] == frame]
            assert len(own) == 2
            np.testing.assert_allclose(scores[b, frame], np.mean(own), rtol=2e-5, atol=2e-5)
        membranes = oddity_mechanism.last_membranes(states)[:, b]
        np.testing.assert_allclose(membranes, trace, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("network", oddity_setup.NETWORKS)
def test_every_network_has_gradients(network):
    cfg = oddity_setup.ModelConfig(network, "cnn", (4, 8), 8, 64, 2, relation=(8,), decision=(8,))
    net = oddity_setup.build_network(cfg, 16)
    task = OddityTask(net, "softmax" if network == "oren" else "binary")
    params = drawn(net.param_specs())
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16)).astype(np.uint8),
        "label": np.array([1, 4], np.int32),
        "saccade": saccades.plan(np.arange(2)),
    }
    loss = lambda p: task.loss(p, (), batch, jax.random.key(0))[0]
    if network != "snu":  # tracing suffices for the kinds that share all of their code
        grads = jax.eval_shape(jax.grad(loss), params)
        params_lib.check(grads, net.param_specs())
        return
    grads = jax.jit(jax.grad(loss))(params)
    for path, value in params_lib.flatten(grads):
        assert np.isfinite(value).all() and np.abs(value).max() > 0, path


def test_sizes_of_the_specification():
    count = lambda name: params_lib.count(
        oddity_setup.build_network(oddity_setup.ModelConfig(name), 100).param_specs()
    )
    convs = 9 * 32 + 32 + 3 * (9 * 32 * 32 + 32) + 4 * 64
    eye = convs + 7 * 7 * 32 * 64 + 64 + 128
    first, second = 70 * 128 + 128 * 128 + 128, 2 * 128 * 128 + 128
    assert count("snu") == count("ssnu") == eye + first + second + 129
    relations = 128 * 256 + 256 + 2 * (256 * 256 + 256)
    assert count("oren") == eye + relations + (256 * 256 + 256) + 257
    assert count("snu") < count("oren")


def test_group_norm_by_hand():
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 3, 3, 4))
    weight, bias = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.0, -1.0])
    found = layers.group_norm({"weight": weight, "bias": bias}, jnp.asarray(x), 2, eps=0.1)
    for n, c in itertools.product(range(2), range(4)):
        group = x[n, :, :, c // 2 * 2 : c // 2 * 2 + 2]
        exact = (x[n, :, :, c] - group.mean()) / np.sqrt(group.var() + 0.1)
        np.testing.assert_allclose(found[n, :, :, c], exact * weight[c] + bias[c], atol=1e-5)


def test_frame_codes_do_not_depend_on_the_company():
    eye = FrameEncoder(16, (4, 4), 8)
    params = drawn(eye.param_specs())
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16)).astype(np.uint8)
    apply = jax.jit(eye.apply)
    codes, swapped = apply(params, {"image": images}), apply(params, {"image": images[:, ::-1]})
    np.testing.assert_allclose(swapped, codes[:, ::-1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="frames must be"):
        eye.apply(params, {"image": images[..., :8]})


def test_online_learning_against_back_propagation():
    """One feed-forward layer: OSTL is exact; inputs receive what their own saccade contributes."""
    net = Saccadic(Codes(), CellReader(5 + 6, "snu_feedforward", size=4, depth=1))
    reader, stack = net.reader, net.reader.stack
    params = drawn(net.param_specs(), seed=5)
    rng = np.random.default_rng(6)
    batch = {
        "codes": jnp.asarray(rng.normal(size=(3, 6, 5)), jnp.float32),
        "label": jnp.asarray([0, 5, 2]),
        "saccade": jnp.asarray(saccades.plan(np.arange(3))),
    }
    task = OnlineOddityTask(net)
    key = jax.random.key(0)
    (value, (_, aux)), grads = jax.jit(task.grads)(params, (), batch, key)
    exact = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, (), batch, key)
    assert float(value) == pytest.approx(float(exact[0][0]), rel=1e-5)
    assert float(aux["accuracy"]) == float(exact[0][1][1]["accuracy"])
    for path, found in params_lib.flatten(grads["reader"]):
        expected = dict(params_lib.flatten(exact[1]["reader"]))[path]
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=path)

    xs = net.seen(batch["codes"], batch["saccade"])
    odd = (batch["saccade"] == batch["label"][:, None]).astype(jnp.float32)
    weight = jnp.repeat(jnp.asarray([0.0, 1 / 6]), 6)

    def cut(xs):  # the same loss with every state taken as given
        state, total = stack.init_state(3), 0.0
        for t in range(12):
            state, y = stack.step(params["reader"], jax.lax.stop_gradient(state), xs[:, t])
            p = jax.nn.sigmoid(y[:, 0])
            likely = odd[:, t] * jnp.log(p) + (1 - odd[:, t]) * jnp.log(1 - p)
            total -= weight[t] * likely.mean()
        return total

    below = jax.jit(reader.online)(params["reader"], xs, odd, weight)[3]
    np.testing.assert_allclose(below, jax.jit(jax.grad(cut))(xs), rtol=1e-4, atol=1e-6)
    assert np.abs(below[:, 6:]).max() > 0 and not np.abs(below[:, :6]).any()


def test_online_learning_has_limits():
    net = Saccadic(Codes(), CellReader(5 + 6, "snu", size=4), evaluation=12)
    with pytest.raises(ValueError, match="one evaluation saccade"):
        OnlineOddityTask(net)
    with pytest.raises(ValueError, match="cells of snn"):
        OnlineOddityTask(Oren(Codes()))


# --- task and mechanism -------------------------------------------------------------------------


def test_losses_by_hand():
    scores = jnp.asarray([[0.5, 2.0, 0.0, 0.0, -1.0, 0.0]])
    label = jnp.asarray([1])
    odd = np.eye(6)[1]
    exact = -np.mean(odd * np.log(sigmoid(scores[0])) + (1 - odd) * np.log(sigmoid(-scores[0])))
    assert float(OddityTask(None, "binary").losses(scores, label)[0]) == pytest.approx(
        exact, rel=1e-6
    )
    exact = np.log(np.exp(np.asarray(scores[0], float)).sum()) - 2.0
    assert float(OddityTask(None, "softmax").losses(scores, label)[0]) == pytest.approx(
        exact, rel=1e-6
    )
    with pytest.raises(ValueError, match="objective must be one of"):
        OddityTask(None, "guess")


def test_distances_find_the_outlier():
    codes = np.zeros((2, 6, 3))
    codes[0, 2] = [0, 5, 0]
    codes[1, 4] = [1, 0, 0]
    found = oddity_mechanism.distances(codes, np.array([2, 3]))
    assert found.farthest.tolist() == [True, False]
    # Frame 2 is 5 away from the mean of the others; each other frame is 1 away.
    np.testing.assert_allclose(found.ratio, [5.0, 0.2 / ((1 + 4 * 0.2) / 5)])


def test_accuracy_by_group():
    found = {
        "right": np.array([1, 0, 1, 1], bool),
        "riddle": np.array([41, 41, 0, 44], np.int32),
    }
    report = oddity_run.by_group(found)
    assert report["accuracy"] == 0.75 and report["count"] == 4
    assert report["families"]["topology"] == {"accuracy": pytest.approx(2 / 3), "count": 3}
    assert report["riddles"]["41"] == {"name": "inside", "accuracy": 0.5, "count": 2}


# --- whole runs ---------------------------------------------------------------------------------


def configured(arg):
    return importlib.import_module("configs.perception.oddity_snu").get_config(arg)


@pytest.mark.parametrize("network", ("snu", "oren"))
def test_a_run_from_configuration_to_report(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = configured(f"riddle=41+44,without=44,network={network},train=16,steps=3,batch=8")
    config.data.update({"validation": 8, "test": 12, "eval_batch_size": 8, "resolution": 16})
    config.model.update({"channels": (4, 4), "width": 8, "size": 8, "relation": (8,)})
    train_program.main(config, str(tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["test"]["count"] == 12 and list(report["test"]["riddles"]) == ["41"]
    assert list(report["held_out"]["riddles"]) == ["44"] and report["samples"] == 24
    names = ["accuracy", "learning", "distance"]
    names += ["saccades", "membranes", "initial"] if network == "snu" else []
    for name in names:
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "run" / "mechanism.json").read_text())
    assert 0 <= numbers["odd_is_farthest"] <= 1
    values = oddity_report._FLAGS
    values(
        ["oddity_report", f"--runs={tmp_path}/r*", f"--output={tmp_path / 'all'}", "--level=0.01"]
    )
    oddity_report.main(values)
    shown = capsys.readouterr().out
    accuracy = report["test"]["accuracy"]
    low, high = (100 * x for x in intervals.wilson(12 * accuracy, 12))
    name = f"{network}, 41+44 without 44, 24 samples"
    assert (
        f"| {name} | 1 | {100 * accuracy:.1f} ({low:.1f} – {high:.1f}) | {report['parameters']:,} |"
    ) in shown
    assert "| topology |" not in shown  # one riddle of the family is not the family
    models = oddity_play.read_models(str(tmp_path / "all" / "models.json"))
    assert list(models.values()) == [{"41": report["test"]["accuracy"]}]
    with pytest.raises(FileNotFoundError, match="no run .a folder with report.json"):
        oddity_report.find_runs(f"{tmp_path}/none*")


def test_a_family_counts_where_each_of_its_riddles_was_tested(tmp_path):
    report = {"network": "snu", "eye": "cnn", "learning": "bptt", "riddle": "all"}
    report |= {"without": "", "samples": 1, "seed": 0}
    report["test"] = oddity_run.by_group(
        {
            "right": np.array([1, 0, 1, 1, 1], bool),
            "riddle": np.array([0, 1, 41, 42, 44], np.int32),
        }
    )
    runs = [oddity_report.Run(report, tmp_path, {"network": "snu"})]
    (scores,) = oddity_report.for_player(runs).values()
    assert scores == {
        **{"colour_orientation": 0.5, "0": 1.0, "1": 0.0},
        **{"41": 1.0, "42": 1.0, "44": 1.0},
    }
    assert list(scores) == ["colour_orientation", "0", "1", "41", "42", "44"]
    assert oddity_play.model_share(scores, "topology", (41, 42, 43, 44)) is None
    assert oddity_report.families_table(runs).splitlines()[-1].endswith("| 50.0 |")


def test_agreement_of_two_networks_by_riddle(tmp_path):
    def trained(network, accuracies):
        riddles = {str(r): {"accuracy": value} for r, value in accuracies.items()}
        report = {"network": network, "eye": "cnn", "learning": "bptt", "riddle": "all"}
        report |= {"without": "", "samples": 1, "seed": 0}
        report["test"] = {"families": {}, "riddles": riddles}
        return oddity_report.Run(report, tmp_path, {"network": network})

    first = trained("snu", {0: 0.9, 7: 0.5, 12: 0.2, 20: 0.1, 25: 0.05, 41: 0.1})
    second = trained("oren", {0: 0.8, 7: 0.3, 12: 0.7, 20: 0.1, 25: 0.05, 44: 0.1})
    # Common: 0, 7, 12, 20, 25. Two neighbours change places: 1 - 6 (1 + 1) / (5 (25 - 1)) = 0.9.
    ((a, b, rank),) = oddity_report.agreements([first, second])
    assert a.startswith("snu") and b.startswith("oren") and rank == pytest.approx(0.9)
    oddity_report.agreement([first, second], tmp_path / "agreement.png")
    assert (tmp_path / "agreement.png").read_bytes().startswith(b"\x89PNG")
    alike = trained("gru", {r: 0.5 for r in (0, 7, 12, 20, 25)})
    assert not oddity_report.agreements([first, alike])
    assert not oddity_report.agreements([first, trained("lstm", {0: 0.1, 7: 0.2, 12: 0.3})])


def test_glimpses_as_the_eye(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = configured("riddle=44,eye=glimpses,network=gru,train=8,resolution=32")
    config.frontend = {"fixation": {"count": 3}}
    cfg = oddity_setup.build_config(config)
    source = oddity_setup.open_source(cfg, "train", 8)
    batch = source.get(np.arange(8, 12))
    assert batch["content"].shape[:3] == (4, 6, 3) and (batch["riddle"] == 44).all()
    net = oddity_setup.build_network(cfg.model, 32, cfg.frontend)
    params = drawn(net.param_specs())
    codes = net.eye.apply(params["eye"], batch)
    assert codes.shape == (4, 6, 64)
    # A frame's code is that of its glimpses, whatever the order of the riddles and frames.
    backwards = {n: np.asarray(batch[n])[::-1, ::-1] for n in net.eye.inputs}
    again = net.eye.apply(params["eye"], backwards)
    np.testing.assert_allclose(again[::-1, ::-1], codes, rtol=1e-3, atol=1e-3)
    scores = net.apply(params, batch)
    assert scores.shape == (4, 6) and np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("arg", "message"),
    (
        ("riddle=45", "riddles are numbered"),
        ("riddle=colour", "families are"),
        ("riddle=topology,without=41+42+43+44", "no riddle is left"),
        ("network=mind", "network must be one of"),
        ("size=large", "small or published"),
        ("eyes=2", "unknown argument 'eyes'"),
        ("initial=-1", "at least 0"),
        ("eye=ear", "eye must be one of"),
        ("learning=hebb", "learning must be one of"),
    ),
)
def test_unusable_configurations(arg, message, tmp_path):
    with pytest.raises((ValueError, config_lib.ConfigError), match=message):
        oddity_run.make_trainer(oddity_setup.build_config(configured(arg)), tmp_path)
