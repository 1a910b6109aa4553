# SPDX-License-Identifier: Apache-2.0
"""Whole training runs: data splits, reports, batch norm, fine-tuning, configurations."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from core import params as params_lib
from snn import train as train_program
from snn.tasks import relu as relu_task
from snn.tasks import ttfs as task_lib
from snn.tasks import ttfs_run
from snn.ttfs import fuse, images, kernels, relu, store
from tests.snn.ttfs_nets import NETS, random_params


def config(**loss):
    return ConfigDict(
        {
            "task": "ttfs",
            "model": {"hidden": (32,)},
            "data": {"name": "digits", "eval_batch_size": 80},
            "loss": loss,
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 5},
            "train": {"steps": 150, "batch_size": 64, "log_every": 50},
        }
    )


def test_digits_train_save_and_fine_tune_under_effects(tmp_path):
    pytest.importorskip("sklearn")
    first = config(activity=1e-3)
    first.data.validation = 100
    first.train.update({"eval_every": 50, "best_metric": "eval/accuracy", "best_mode": "max"})
    ttfs_run.main(first, str(tmp_path / "a"))
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    scores = [json.loads(line).get("eval/accuracy") for line in lines]
    best = max(s for s in scores if s is not None)
    assert report["validation_accuracy"] == pytest.approx(best) and report["parameters_of_step"]
    assert report["certificates"]["exact"] and report["certificates"]["examples"] == 360
    assert report["certificates"]["layers"][0]["needed"] < report["windows"]["layer_0"]
    assert report["accuracy"] > 0.93 and report["same_label_fraction"] > 0.99
    assert 0 < report["spikes_per_neuron"] < 0.7 and report["latency"] > 1
    assert report["energy_nj"] < report["relu_energy_nj"]
    for name in ("raster", "strip", "windows", "voltages", "loss"):
        assert (tmp_path / "a" / f"{name}.png").is_file()
    path = tmp_path / "a" / "model.safetensors"
    network, params, deltas, extra = store.load(path)
    assert extra["white"] == 16 and set(deltas) == {"layer_0"}
    tuned = config(init_from=str(path), semantics="clip", effects={"time_bits": 3})
    tuned.train.steps = 20
    ttfs_run.main(tuned, str(tmp_path / "b"))
    assert json.loads((tmp_path / "b" / "report.json").read_text())["accuracy"] > 0.9


def test_stored_networks_survive_the_round_trip(tmp_path):
    layers, shape = NETS["residual"]
    network, params = fuse.fuse(layers, random_params(layers, shape), shape, (-3.0, 3.0))
    store.save(tmp_path / "net", network, params, {"layer_0": 2.5}, {"note": "x"})
    again, read, deltas, extra = store.load(tmp_path / "net")
    assert again == network and deltas == {"layer_0": 2.5} and extra == {"note": "x"}
    for path, value in params_lib.flatten(params):
        np.testing.assert_array_equal(dict(params_lib.flatten(read))[path], value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        store.load(tmp_path / "nowhere")
    (tmp_path / "bad").write_bytes(b"\x10\0\0\0\0\0\0\0garbage")
    with pytest.raises(ValueError, match="not a safetensors"):
        store.load(tmp_path / "bad")


def test_pixel_ranges_and_augmentation():
    with pytest.raises(ValueError, match=r"pixel range is \[0, 1\]"):
        images.encode(np.array([0.0, 255.0]), 0, 1)
    source = images.ImageSource(
        np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), np.uint8),
        np.arange(20),
        seed=1,
        augment=images.Augment(shift=1, rotate=5, zoom=0.1, flip=True),
    )
    whole, part = source.get(np.arange(40)), source.get(np.arange(13, 17))
    np.testing.assert_array_equal(whole["image"][13:17], part["image"])
    same = images.distort(whole["image"], np.full((40, 6), 0.5), images.Augment(shift=1))
    np.testing.assert_array_equal(same, whole["image"])


def test_statistics_belong_to_the_parameters_that_are_kept():
    """One batch of everything: the statistics of the plain ReLU network's values at each norm."""
    cfg = relu_task.build_config(
        {
            "task": "ttfs_relu",
            "model": {"architecture": "lenet", "channels": (3,), "hidden": (5,)}
            | {"batch_norm": "before"},
            "data": {},
            "train": {"steps": 1, "batch_size": 4},
            "loss": {"mean": 100.0, "std": 50.0, "dropout": 0.5},
        }
    )
    task = relu_task.ReluTask(cfg, (8, 8, 1))
    params = params_lib.init(task.param_specs(), jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    halves = [{"image": image[:20]}, {"image": image[20:]}]
    found = relu_task.with_statistics(task, params, [{"image": image}])
    value = relu.apply(task.layers[:1], params, task.raw(image))
    np.testing.assert_allclose(found["1_batchnorm"]["mean"], value.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found["1_batchnorm"]["var"], value.var((0, 1, 2)), rtol=1e-4)
    parts = relu_task.with_statistics(task, params, halves)["1_batchnorm"]
    np.testing.assert_allclose(parts["var"], found["1_batchnorm"]["var"], rtol=1e-4)
    inference = relu.apply(task.layers, found, task.raw(image))
    trained, _, _ = task.forward(params, task.raw(image), None)
    np.testing.assert_allclose(inference, trained, atol=1e-4)
    with pytest.raises(ValueError, match="no batches"):
        relu_task.with_statistics(task, params, [])


def test_digits_are_those_of_scikit_learn(monkeypatch):
    data = pytest.importorskip("sklearn.datasets").load_digits()
    found, test = images.load("digits"), np.arange(len(data.target)) % 5 == 0
    assert found.train.dtype == found.test_labels.dtype == np.uint8
    for part, chosen in (("train", ~test), ("test", test)):
        np.testing.assert_array_equal(getattr(found, part)[..., 0], data.images[chosen])
        np.testing.assert_array_equal(getattr(found, f"{part}_labels"), data.target[chosen])
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-learn"):
        images.load("digits")


def test_validation_images_are_held_out(tmp_path):
    pytest.importorskip("sklearn")
    whole = images.load("digits")
    cfg = task_lib.DataConfig("digits", validation=100)
    train, validation, data = task_lib.sources(cfg, 0)
    assert len(train) == len(whole.train) - 100 and len(validation) == 100
    np.testing.assert_array_equal(data.validation, whole.train[-100:])
    np.testing.assert_array_equal(data.test, whole.test)
    seen = train.get(np.arange(len(train)))["image"].sum(axis=0, dtype=np.int64)
    np.testing.assert_array_equal(seen, whole.train[:-100].sum(axis=0, dtype=np.int64))
    both = task_lib.DataConfig("digits", validation=100, train_on_validation=True)
    train, validation, data = task_lib.sources(both, 0)
    assert len(train) == len(whole.train) and validation is None and data.validation is None
    with pytest.raises(ValueError, match="validation: 0 to 1436 images, got 1437"):
        whole.hold_out(len(whole.train))
    chosen = config()
    chosen.train.best_metric = "eval/accuracy"
    with pytest.raises(ValueError, match="best_metric .* validation"):
        ttfs_run.main(chosen, str(tmp_path))


def test_images_held_out_of_the_cifar_subset_are_of_all_classes():
    try:
        data = images.load("cifar10").hold_out(500)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    for labels in (data.validation_labels, data.test_labels[:500]):
        assert np.bincount(labels, minlength=10).min() > 20


CONFIGS = (
    "ttfs_digits",
    "ttfs_digits_lif",
    "ttfs_mnist",
    "ttfs_mnist_lenet",
    "ttfs_mnist_lenet_bn",
    "ttfs_fashion",
    "ttfs_cifar10",
    "ttfs_cifar10_vgg15",
)


def load_config(repo, name):
    namespace: dict = {}
    exec(compile((repo / f"configs/snn/{name}.py").read_text(), name, "exec"), namespace)
    return namespace["get_config"]()


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_valid(repo, name):
    config = load_config(repo, name)
    build = relu_task.build_config if config.task == "ttfs_relu" else task_lib.build_config
    shape = {"digits": (8, 8, 1), "cifar10": (32, 32, 3)}.get(config.data.name, (28, 28, 1))
    cfg = build(config)
    specs = relu.param_specs(cfg.model.layers(), shape)
    assert params_lib.count(specs) > 5_000


def config_of_tuning(path):
    tuned = config(init_from=path, semantics="clip")
    tuned.optimizer.learning_rate = 1e-9
    tuned.train.update({"steps": 1, "log_every": 1})
    return tuned


def test_batch_norm_training_and_exact_mapping(tmp_path):
    pytest.importorskip("sklearn")
    config = ConfigDict(
        {
            "task": "ttfs_relu",
            "model": {
                "architecture": "vgg",
                "channels": ((4, 4), (6,)),
                "hidden": (16,),
                "batch_norm": "after",
                "conv_dropout": (0.1, 0.0),
            },
            "data": {"name": "digits", "eval_batch_size": 80, "validation": 160},
            "loss": {"mean": 5.0, "std": 6.0, "low": -1.0, "high": 2.0, "dropout": 0.1},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 5},
            "train": {"steps": 120, "batch_size": 64, "log_every": 40, "ema": 0.9},
        }
    )
    train_program.main(config, str(tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["same_labels"] == report["test_examples"] == 360
    assert report["relu_accuracy"] == report["spiking_accuracy"] > 0.8
    assert report["largest_difference_of_logits"] < 1e-10
    assert report["validation_examples"] == 160 and report["validation_accuracy"] > 0.8
    assert report["certificates"]["exact"] and len(report["certificates"]["layers"]) == 4
    # Fine-tuning takes over the mapped network's coding of pixels and its biases by position.
    tuned = config_of_tuning(str(tmp_path / "model.safetensors"))
    ttfs_run.main(tuned, str(tmp_path / "tuned"))
    again = json.loads((tmp_path / "tuned" / "report.json").read_text())
    assert again["accuracy_without_windows"] == report["spiking_accuracy"]
    config.task = "other"
    with pytest.raises(ValueError, match="config.task must be one of"):
        train_program.main(config, str(tmp_path))


def test_lif_network_with_learnable_delays_trains(tmp_path):
    pytest.importorskip("sklearn")
    cfg = config(semantics="causal", window=1.0)
    cfg.model = {"hidden": (24,), "rule": "autonomous", "kernel": "lif2", "tau": 0.5}
    cfg.model.delay = "axonal"
    cfg.train.update({"steps": 150, "log_every": 50})
    ttfs_run.main(cfg, str(tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["accuracy"] > 0.6 and report["windows"] == {"layer_0": 1.0}
    assert report["certificates"].startswith("none") and 0 < report["spikes_per_neuron"] < 1
    network, params, _, _ = store.load(tmp_path / "model.safetensors")
    initial = params_lib.init(task_lib.param_specs(network), jax.random.key(0))
    assert network.hidden[0].kernel == kernels.Lif2(0.5)
    assert params["layer_0"]["delay"].min() >= 0 and params["layer_0"]["delay"].shape == (64,)
    assert float(np.abs(params["layer_0"]["delay"]).max()) > float(
        initial["layer_0"]["delay"].max()
    )
    with pytest.raises(ValueError, match="kernel must be one of .* 'lif2' with rule 'b1'"):
        task_lib.ModelConfig(kernel="lif2")
    with pytest.raises(ValueError, match="causal has neither dropout"):
        task_lib.TaskConfig(semantics="causal", dropout=0.1)
