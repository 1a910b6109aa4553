# SPDX-License-Identifier: Apache-2.0
"""Reasoning over glimpses: stored glimpses, losses by hand, a run from configuration to report."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import cli
from core import config as config_lib
from core import data as data_lib
from core import params as params_lib
from perception import evaluate, frontend, images
from perception import train as train_program
from perception.frontend import FrontEndConfig
from perception.tasks import glimpse_sets, image_sets, reasoning, reasoning_run
from perception.tasks.glimpse_sets import GlimpseSet
from perception.tasks.image_sets import Reader

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Drawn images and glimpses of this module stay in its own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(glimpse_sets, "PART", 40)  # files are filled up with blank images
        yield


@pytest.fixture
def drawn():
    return image_sets.open_set("svrt/1", "train", 12)


# --- sources ------------------------------------------------------------------------------------


def test_every_kind_of_set_has_a_name():
    assert len(image_sets.open_set("svrt/23", "test", 4)) == 4
    colour = image_sets.open_set("svrt_ood/lines", "test", 2).rows(np.arange(2))["image"]
    panels = image_sets.candidates(colour, grey=True)
    assert panels.shape == (2, 1, 128, 128, 1) and panels.dtype == np.uint8
    assert image_sets.candidates(colour, grey=False).shape == (2, 1, 128, 128, 3)
    several = image_sets.open_set("art/rmts/95", "test", 2).rows(np.arange(2))["image"]
    assert image_sets.candidates(several, grey=True).shape == (2, 2, 128, 128, 1)
    for name in ("svrt", "svrt/one", "art/rmts", "mnist/1"):
        with pytest.raises(ValueError, match="a data set is named"):
            image_sets.open_set(name, "test", 4)
    with pytest.raises(ValueError, match="problems 1"):
        image_sets.open_set("svrt/24", "test", 4)


def test_training_streams_are_shuffled_and_flipped():
    reader = Reader(10, train=True, flips=True, seed=3)
    rows, flips = reader(np.arange(40))
    assert sorted(rows[:10]) == list(range(10)) == sorted(rows[10:20])
    assert (rows[:10] != rows[10:20]).any() and set(flips) == {0, 1, 2, 3}
    part = reader(np.arange(7, 23))
    np.testing.assert_array_equal(part[0], rows[7:23])
    np.testing.assert_array_equal(part[1], flips[7:23])
    rows, flips = Reader(10, train=False, flips=True, seed=3)(np.arange(10))
    assert (rows == np.arange(10)).all() and not flips.any()


def test_stored_glimpses_are_those_of_the_flipped_image(drawn):
    cfg = FrontEndConfig()
    reader = Reader(12, train=True, flips=True, seed=0)
    source = GlimpseSet(drawn, cfg, reader)
    at = np.arange(9)
    batch = source.get(at)
    assert batch["content"].shape == (9, 1, 15, 1, 21, 21)
    rows, flips = reader(at)
    assert len(set(flips)) > 2
    panels = image_sets.candidates(drawn.rows(rows)["image"], grey=True)[:, 0]
    flipped = np.stack([image_sets.flip(x, f) for x, f in zip(panels, flips, strict=True)])
    exact = frontend.look(images.prepare(flipped), cfg)
    np.testing.assert_allclose(batch["content"][:, 0], exact.content, atol=1e-3)
    np.testing.assert_allclose(batch["location"][:, 0], exact.location, atol=1e-6)
    np.testing.assert_array_equal(batch["label"], drawn.rows(rows)["label"])
    whole = image_sets.WholeImages(drawn, reader, grey=True).get(at)
    np.testing.assert_array_equal(whole["image"][:, 0], flipped)


def test_recombined_examples_keep_their_places_and_label(drawn):
    """Half of the examples of label 0 show what is in other images, at their own places."""
    at = np.arange(240)
    plain = GlimpseSet(drawn, FrontEndConfig(), Reader(12, True, True, 0)).get(at)
    reader = Reader(12, True, True, 0, recombine=0.5)
    source = GlimpseSet(drawn, FrontEndConfig(), reader)
    mixed = source.get(at)
    np.testing.assert_array_equal(mixed["location"], plain["location"])
    np.testing.assert_array_equal(mixed["label"], plain["label"])
    other = (mixed["content"] != plain["content"]).any(axis=(1, 2, 3, 4, 5))
    assert not other[plain["label"] == 1].any()
    assert 0.3 < other[plain["label"] == 0].mean() < 0.6
    # What is seen is all of one other image in the same flip, drawn anew in every epoch.
    donors = reader.donors(at, reader(at)[0], plain["label"])
    _, flips = reader(at)
    expected = source._read("content", donors, flips)
    np.testing.assert_array_equal(mixed["content"], expected)
    assert len(set(donors[other])) == 12
    np.testing.assert_array_equal(source.get(at[7:9])["content"], mixed["content"][7:9])
    none = Reader(12, False, False, 0, recombine=0.5).donors(at[:12], at[:12], np.zeros(12, int))
    np.testing.assert_array_equal(none, at[:12])


def test_spliced_examples_are_two_halves_that_obey_the_rule(drawn):
    at = np.arange(240)
    reader = Reader(12, True, True, 0, splice=0.5)
    plain = GlimpseSet(drawn, FrontEndConfig(), Reader(12, True, True, 0)).get(at)
    source = GlimpseSet(drawn, FrontEndConfig(), reader)
    mixed = source.get(at)
    np.testing.assert_array_equal(mixed["label"], plain["label"])
    labels = drawn.rows(np.arange(12))["label"]
    first, second, cuts = reader.halves(at, plain["label"], np.flatnonzero(labels == 1), 15)
    changed = first >= 0
    assert not changed[plain["label"] == 1].any()
    assert 0.3 < changed[plain["label"] == 0].mean() < 0.7
    assert set(cuts[changed]) == set(range(3, 13))
    assert (labels[first[changed]] == 1).all() and (labels[second[changed]] == 1).all()
    assert (first[changed] != second[changed]).all()
    _, flips = reader(at)
    for name in ("content", "location"):
        early, late = (source._read(name, np.maximum(x, 0), flips) for x in (first, second))
        for i in range(len(at)):
            expected = plain[name][i, 0]
            if changed[i]:
                expected = np.concatenate([early[i, 0, : cuts[i]], late[i, 0, cuts[i] :]])
            np.testing.assert_array_equal(mixed[name][i, 0], expected)


def test_glimpses_are_taken_once(drawn, monkeypatch):
    cfg = FrontEndConfig(policy="random")
    reader = Reader(12, train=False, flips=False, seed=0)
    first = GlimpseSet(drawn, cfg, reader).get(np.arange(12))
    monkeypatch.setattr(glimpse_sets, "take", lambda *args: pytest.fail("taken again"))
    again = GlimpseSet(drawn, cfg, reader)
    for name, values in again.get(np.arange(12)).items():
        np.testing.assert_array_equal(values, first[name])
    about = json.loads((again.folder / "about.json").read_text())
    assert about["frontend"]["policy"] == "random"
    other = glimpse_sets.fingerprint(drawn, FrontEndConfig(policy="grid"), 1, False)
    assert other != again.folder.name
    path = again.folder / "00000-location.npy"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="is damaged"):
        GlimpseSet(drawn, cfg, reader)


def test_an_unfinished_build_goes_on(monkeypatch):
    monkeypatch.setattr(glimpse_sets, "PART", 4)
    drawn = image_sets.open_set("svrt/14", "test", 10)
    reader = Reader(10, train=False, flips=False, seed=0)
    whole = GlimpseSet(drawn, FrontEndConfig(policy="grid"), reader)
    before = whole.get(np.arange(10))
    (whole.folder / "00001-content.npy").unlink()
    calls = []
    take = glimpse_sets.take
    monkeypatch.setattr(glimpse_sets, "take", lambda *args: (calls.append(args[2]), take(*args))[1])
    after = GlimpseSet(drawn, FrontEndConfig(policy="grid"), reader).get(np.arange(10))
    assert calls == [4]
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


# --- the task -----------------------------------------------------------------------------------


class Fixed:
    """A network that answers what the batch says."""

    inputs = ("content",)

    def __init__(self, outputs):
        self.outputs = outputs

    def param_specs(self):
        return {}

    def apply(self, params, inputs, key=None):
        return inputs["content"]


def test_losses_by_hand():
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    labels, key = jnp.asarray([1, 0]), jax.random.key(0)
    two = jnp.asarray([[[1.0, 3.0]], [[2.0, -1.0]]])  # [B, P = 1, outputs]
    task = reasoning.ReasoningTask(Fixed(2), "classes")
    loss, (_, aux) = jax.jit(task.loss)({}, (), {"content": two, "label": labels}, key)
    exact = -(np.log(sigmoid(2.0)) + np.log(sigmoid(3.0))) / 2
    assert float(loss) == pytest.approx(exact, rel=1e-6) and float(aux["accuracy"]) == 1.0
    one = jnp.asarray([[[2.0]], [[0.5]]])
    task = reasoning.ReasoningTask(Fixed(1), "binary")
    loss, (_, aux) = jax.jit(task.loss)({}, (), {"content": one, "label": labels}, key)
    exact = -(np.log(sigmoid(2.0)) + np.log(sigmoid(-0.5))) / 2
    assert float(loss) == pytest.approx(exact, rel=1e-6) and float(aux["accuracy"]) == 0.5
    three = jnp.asarray([[[0.0], [2.0], [1.0]], [[0.5], [0.0], [3.0]]])  # [B, P = 3, 1]
    batch = {"content": three, "label": labels, "valid": jnp.asarray([1.0, 0.0])}
    task = reasoning.ReasoningTask(Fixed(1), "candidates")
    sums = {k: float(v) for k, v in jax.jit(task.eval_sums)({}, batch).items()}
    scores = task.eval_metrics(sums)
    exact = np.log(np.exp([0.0, 2.0, 1.0]).sum()) - 2
    assert scores == pytest.approx({"accuracy": 1.0, "nll": exact}, rel=1e-6)
    task = reasoning.ReasoningTask(Fixed(1), "weighted")
    loss, _ = jax.jit(task.loss)({}, (), batch, key)
    parts = [
        -np.log(sigmoid(0.0)) - 2 * np.log(sigmoid(2.0)) - np.log(sigmoid(-1.0)),
        -2 * np.log(sigmoid(0.5)) - np.log(sigmoid(0.0)) - np.log(sigmoid(-3.0)),
    ]
    assert float(loss) == pytest.approx(np.mean(parts) / 3, rel=1e-6)


def test_objectives_must_fit():
    with pytest.raises(ValueError, match="objective must be one of"):
        reasoning.ReasoningTask(Fixed(2), "guess")
    with pytest.raises(ValueError, match="needs one output"):
        reasoning.ReasoningTask(Fixed(2), "candidates")
    task = reasoning.ReasoningTask(Fixed(1), "candidates")
    with pytest.raises(ValueError, match="problems of 1 images"):
        task.logits({}, {"content": jnp.zeros((2, 1, 1))})


# --- whole runs ---------------------------------------------------------------------------------


def configured(name, arg, **data):
    config = importlib.import_module(f"configs.perception.{name}").get_config(arg)
    config.data.update(data)
    return config


def shrink(config):
    """One small layer and few steps."""
    config.model.options.update({"depth": 1, "heads": 2, "hidden": 32})
    config.train.update({"steps": 3, "batch_size": 8, "log_every": 1, "eval_every": 0})
    config.data.update({"validation": 8, "test": 8, "eval_batch_size": 8})
    config.frontend.fixation.count = 6
    return config


def test_a_tiny_run_learns_problem_1(tmp_path):
    """From the configuration to report and pictures; resumes; is tested again on other sets."""
    config = shrink(configured("gap_svrt", "problem=1,train=240", others=("svrt_ood/regular",)))
    config.data.update({"test": 160, "test_others": 40, "eval_batch_size": 40})
    config.frontend.fixation.count = 15
    config.train.update({"steps": 45, "batch_size": 40, "eval_every": 45})
    train_program.main(config, str(tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["test"]["svrt/1"]["accuracy"] > 0.8
    assert report["test"]["svrt_ood/regular"]["count"] == 40
    for name in ("accuracy.png", "glimpses.png", "attention.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")
    other = configured("gap_svrt", "problem=5,train=240,seed=1")
    with pytest.raises(cli.UserError, match="another run .*data.name: 'svrt/1' -> 'svrt/5'.*seed"):
        train_program.main(other, str(tmp_path / "run"))
    again = evaluate.test_again(tmp_path / "run", ["svrt/1"], 160)
    assert again.test["svrt/1"]["accuracy"] == pytest.approx(
        report["test"]["svrt/1"]["accuracy"], abs=1e-6
    )
    rows = evaluate.summarise([evaluate.read_report(tmp_path / "run")])
    assert [(r.name, r.seeds) for r in rows] == [("svrt/1", 1), ("svrt_ood/regular", 1)]
    assert "svrt/1, 240 problems, abstractor, logpolar" in evaluate.table(rows)


@pytest.mark.parametrize(
    ("name", "arg"),
    (
        ("gap_art", "task=rmts,train=16"),
        ("gap_svrt", "problem=2,train=16,network=transformer,sensor=multiscale,policy=grid"),
    ),
)
def test_other_configurations_train(name, arg, tmp_path):
    cfg = reasoning_run.build_config(shrink(configured(name, arg)))
    report, _ = reasoning_run.run(cfg, reasoning_run.make_trainer(cfg, tmp_path))
    assert report["steps"] == 3 and np.isfinite(report["test"][cfg.data.name]["nll"])


@pytest.mark.parametrize("network", reasoning_run.IMAGE_NETWORKS)
def test_baselines_train_under_the_same_interface(network):
    cfg = reasoning_run.build_config(configured("gap_svrt", f"train=4,network={network}"))
    source = reasoning_run.open_source(cfg, cfg.data.name, "train", 4)
    example = source.get(np.arange(2))
    net = reasoning_run.build_network(cfg.model, example, cfg.objective)
    task = reasoning.ReasoningTask(net, cfg.objective)
    shapes = jax.eval_shape(
        lambda params: task.logits(params, example),
        jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype),
            net.param_specs(),
            is_leaf=lambda s: hasattr(s, "axes"),
        ),
    )
    assert shapes.shape == (2, 2)


@pytest.mark.parametrize("name", ("gap_svrt", "gap_svrt_ood", "gap_art", "gap_clevr_lite"))
@pytest.mark.parametrize("sensor", ("logpolar", "multiscale"))
@pytest.mark.parametrize("network", ("abstractor", "transformer", "esbn", "rwkv"))
def test_published_sizes_can_be_built(name, sensor, network):
    arg = f"size=published,sensor={sensor},network={network}"
    if name in ("gap_art", "gap_clevr_lite"):
        arg += ",task=identity" if name == "gap_clevr_lite" else ",task=rmts"
    cfg = reasoning_run.build_config(configured(name, arg))
    colours = 3 if name in ("gap_svrt_ood", "gap_clevr_lite") else 1
    shape = cfg.frontend.content_shape(colours)
    example = {"content": np.zeros((1, 1, *shape), np.float16)}
    specs = reasoning_run.build_network(cfg.model, example, cfg.objective).param_specs()
    counts = {
        ("gap_svrt", "logpolar", "abstractor"): 5_756_946 - 128,
        ("gap_svrt", "multiscale", "abstractor"): 5_762_688 - 128,
        ("gap_svrt_ood", "logpolar", "abstractor"): 5_757_396 - 128,
        ("gap_svrt_ood", "multiscale", "abstractor"): 6_234_108 - 128,
        ("gap_art", "logpolar", "abstractor"): 7_486_321 - 128,
        ("gap_clevr_lite", "logpolar", "abstractor"): 8_119_445 - 128,
        ("gap_clevr_lite", "multiscale", "abstractor"): 8_122_861 - 128,
        ("gap_svrt", "logpolar", "transformer"): 2_884_785 - 432,
        ("gap_svrt", "multiscale", "transformer"): 2_856_435 - 432,
    }
    expected = counts.get((name, sensor, network))
    assert expected is None or params_lib.count(specs) == expected


@pytest.mark.parametrize(
    ("arg", "message"),
    (
        ("problem=24", "problems 1"),
        ("problem=one", "problem must be a whole number, got 'one'"),
        ("noise=much", "noise must be a number, got 'much'"),
        ("recombine=2", "recombine and splice must be in"),
        ("recombine=0.5,network=cnn", "recombine and splice need a network"),
        ("noise=1,network=cnn", "noise, blank and swap need a network over glimpses"),
        ("problem", "argument 'problem' needs a value"),
        ("problem=2,train=-1", "train must be at least 1, got -1"),
        ("size=large", "small or published"),
        ("eye=1", "unknown argument 'eye'"),
        ("network=mind", "network must be one of"),
        ("sensor=retina", "sensor must be one of"),
    ),
)
def test_unusable_configurations(arg, message, tmp_path):
    with pytest.raises((ValueError, config_lib.ConfigError), match=message):
        cfg = reasoning_run.build_config(configured("gap_svrt", arg))
        reasoning_run.make_trainer(cfg, tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    (
        ({"test": 0}, "test must be at least 1, got 0"),
        ({"others": ("svrt_ood/linez",)}, "family must be original"),
        ({"others": ("art/rmts/95",)}, r"shape \(2, 128, 128, 1\), but those of 'svrt/1'"),
        ({"grey": False}, r"'svrt_ood/irregular' .* \(1, 128, 128, 3\)"),
    ),
)
def test_unusable_test_sets_are_found_before_training(data, message, tmp_path, monkeypatch):
    monkeypatch.setattr(reasoning_run, "GlimpseSet", lambda *args, **more: pytest.fail("too late"))
    with pytest.raises((ValueError, config_lib.ConfigError), match=message):
        cfg = reasoning_run.build_config(configured("gap_svrt", "problem=1", **data))
        reasoning_run.make_trainer(cfg, tmp_path)


def test_long_runs_keep_checkpoints_on_their_way():
    """With none but the last, a killed run of hours would begin anew."""
    for name, arg in (("gap_svrt", ""), ("gap_art", ""), ("oddity_snu", "network=oren")):
        for size in ("small", "published"):
            train = configured(name, f"size={size},{arg}").train
            assert 0 < train.save_every <= train.steps
            assert train.save_every <= max(500, train.steps / 20)


def test_unknown_tasks_and_options(tmp_path):
    config = configured("gap_svrt", "problem=1,train=4")
    config.task = "chess"
    with pytest.raises(config_lib.ConfigError, match="config.task must be one of"):
        train_program.main(config, str(tmp_path))
    cfg = reasoning_run.ModelConfig("abstractor", options=(("breadth", 3),))
    example = {"content": np.zeros((1, 1, 15, 1, 21, 21), np.float16)}
    with pytest.raises(ValueError, match="options of network 'abstractor'"):
        reasoning_run.build_network(cfg, example, "classes")


# --- the loop's sources -------------------------------------------------------------------------


def test_sources_are_sources(drawn):
    """The loop asks for any global index, also beyond an epoch."""
    source = GlimpseSet(drawn, FrontEndConfig(), Reader(12, True, True, 0))
    for batch in data_lib.batches(source, 5, 0, 6, transport="threads"):
        assert batch["content"].shape[0] == 5
