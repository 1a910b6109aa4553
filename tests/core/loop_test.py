# SPDX-License-Identifier: Apache-2.0
import dataclasses
import errno
import os
import shutil
import signal

import chex
import jax
import numpy as np
import pytest

from core import checkpoint, files, metrics, optim
from core.loop import TrainConfig, Trainer
from core.train_step import init_state, make_train_step
from tests.core.toy import ToyTask, regression_data

CFG = TrainConfig(steps=12, batch_size=8, log_every=3)


def _trainer(workdir, cfg=CFG, task=None, **kwargs):
    task = task or ToyTask()
    tx = optim.adamw(
        optim.AdamWConfig(1e-2, warmup_steps=2, weight_decay=0.01), task.param_specs(), 12
    )
    kwargs.setdefault("report", lambda text: None)
    kwargs.setdefault("run_config", {"model": {"width": 16}, "train": cfg})
    return Trainer(task, tx, regression_data(), cfg, workdir, **kwargs)


def _losses(workdir):
    records = metrics.read_jsonl(workdir / "metrics.jsonl")
    return {r["step"]: r["loss"] for r in records if "loss" in r}


def _with(**kwargs):
    return dataclasses.replace(CFG, **kwargs)


def test_training_lowers_the_loss_and_compiles_once(tmp_path):
    trainer = _trainer(tmp_path, _with(steps=40, log_every=10))
    trainer.run()
    losses = list(_losses(tmp_path).values())
    assert losses[-1] < 0.7 * losses[0]
    assert trainer.train_step._cache_size() == 1


@pytest.mark.parametrize(
    "mesh, preset",
    [
        ({"data": 8, "model": 1}, "dp"),
        ({"data": 4, "model": 2}, "fsdp_tp"),
        ({"data": 2, "model": 4}, "tp"),
        ({"data": 8}, "fsdp"),
    ],
)
def test_meshes_agree(tmp_path, mesh, preset):
    cfg = _with(mesh=tuple(mesh.items()), sharding=preset, log_every=1)
    state = _trainer(tmp_path / "b", cfg).run()
    single = jax.tree.map(np.asarray, _single_device_params())
    chex.assert_trees_all_close(jax.tree.map(np.asarray, state.params), single, atol=2e-5)


def _single_device_params():
    """The same run without any mesh: a plain Python loop."""
    task = ToyTask()
    tx = optim.adamw(
        optim.AdamWConfig(1e-2, warmup_steps=2, weight_decay=0.01), task.param_specs(), 12
    )
    state = init_state(task, tx, CFG)
    step = jax.jit(make_train_step(task, tx, CFG))
    source = regression_data()
    for i in range(CFG.steps):
        state, _ = step(state, source.get(np.arange(8) + 8 * i))
    return state.params


@pytest.mark.parametrize("carry", [False, True])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, carry):
    task = ToyTask(carry=carry, noise=0.1, eval_rows=20)
    cfg = _with(ema=0.9, save_every=5, eval_every=4, best_metric="eval/error")
    whole = _trainer(tmp_path / "a", cfg, task).run()
    first = _trainer(tmp_path / "b", cfg, task)
    first._stop.set()  # as after SIGTERM: one step, a save, exit 0
    with pytest.raises(SystemExit) as stopped:
        first.run()
    assert stopped.value.code == 0
    half = _trainer(tmp_path / "b", cfg, task)
    half.cfg = dataclasses.replace(cfg, steps=7)
    half.run()
    resumed = _trainer(tmp_path / "b", cfg, task).run()
    chex.assert_trees_all_equal(whole, resumed)
    expected = metrics.read_jsonl(tmp_path / "a" / "metrics.jsonl")
    found = metrics.read_jsonl(tmp_path / "b" / "metrics.jsonl")
    names = ("step", "loss", "grad_norm", "eval/error")
    keep = lambda rs: [{k: v for k, v in r.items() if k in names} for r in rs]
    # The run that stopped after 1 and 7 steps wrote its means there as well; the rest agrees.
    both = {r["step"] for r in expected} - {9}
    assert [r for r in keep(found) if r["step"] in both] == [
        r for r in keep(expected) if r["step"] in both
    ]


def test_resume_on_another_mesh(tmp_path):
    whole = _trainer(tmp_path / "a", _with(mesh=(("data", 8),))).run()
    half = _trainer(tmp_path / "b", _with(mesh=(("data", 8),), sharding="fsdp"))
    half.cfg = dataclasses.replace(half.cfg, steps=6)
    half.run()
    cfg = _with(mesh=(("data", 2), ("model", 4)), sharding="fsdp_tp")
    resumed = _trainer(tmp_path / "b", cfg).run()
    chex.assert_trees_all_close(
        jax.tree.map(np.asarray, whole.params), jax.tree.map(np.asarray, resumed.params), atol=1e-5
    )


def test_accumulation_equals_the_full_batch(tmp_path):
    full = _trainer(tmp_path / "a").run()
    parts = _trainer(tmp_path / "b", _with(accumulate=4)).run()
    chex.assert_trees_all_close(full.params, parts.params, atol=1e-6)
    with pytest.raises(NotImplementedError, match="accumulation with a carried state"):
        _trainer(tmp_path / "c", _with(accumulate=2), ToyTask(carry=True)).run()


def test_ema_follows_the_parameters(tmp_path):
    task, tx = ToyTask(), optim.adamw(optim.AdamWConfig(), ToyTask().param_specs(), 3)
    cfg = _with(ema=0.5)
    state = init_state(task, tx, cfg)
    new, _ = make_train_step(task, tx, cfg)(state, regression_data().get(np.arange(8)))
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, state.params, new.params)
    chex.assert_trees_all_close(new.ema, expected, atol=1e-7)


def test_a_task_that_has_enough_ends_the_run(tmp_path):
    class Modest(ToyTask):
        def enough(self, values):
            return values["eval/error"] < np.inf

    state = _trainer(tmp_path, _with(eval_every=5), Modest(eval_rows=8)).run()
    records = metrics.read_jsonl(tmp_path / "metrics.jsonl")
    assert int(state.step) == 5 and records[-1]["step"] == 5 and "eval/error" in records[-1]
    saver = checkpoint.Checkpointer(tmp_path / "checkpoints", 1)
    assert saver.latest_step() == 5
    saver.close()
    again = _trainer(tmp_path, _with(eval_every=5), Modest(eval_rows=8)).run()
    assert int(again.step) == 5 and metrics.read_jsonl(tmp_path / "metrics.jsonl") == records


def test_nan_stops_with_the_step_and_keeps_a_good_checkpoint(tmp_path):
    class Poisoned(ToyTask):
        def loss(self, params, carry, batch, key):
            loss, aux = super().loss(params, carry, batch, key)
            return loss / (batch["x"][0, 0] != POISON), aux

    POISON = regression_data().get(np.arange(8) + 8 * 6)["x"][0, 0]  # batch of step 6 (0-based)
    with pytest.raises(FloatingPointError, match="not finite at step 7"):
        _trainer(tmp_path, _with(save_every=7), Poisoned()).run()
    assert checkpoint.find(tmp_path) is None  # step 7 was due, and was not saved
    with pytest.raises(FloatingPointError, match="step 7"):
        _trainer(tmp_path, _with(save_every=2), Poisoned()).run()
    params, meta = checkpoint.load_params(tmp_path)
    assert meta["step"] == 6
    chex.assert_tree_all_finite(params)


def test_another_model_in_the_workdir_is_refused(tmp_path):
    _trainer(tmp_path).run()
    lines = []
    with pytest.raises(checkpoint.CheckpointError, match="model.width: 16 -> 32"):
        _trainer(tmp_path, run_config={"model": {"width": 32}}).run()
    _trainer(
        tmp_path,
        run_config={"model": {"width": 16, "new": {"gain": 1}}, "train": _with(seed=5)},
        report=lines.append,
    ).run()
    assert any("train.seed: 0 -> 5" in line for line in lines)
    # A setting that did not exist when the run began.
    assert any("did not have: model.new: None -> {'gain': 1}" in line for line in lines)


def test_sigterm_saves_and_exits_zero(tmp_path):
    class Killer(ToyTask):
        pass

    trainer = _trainer(tmp_path, _with(steps=500), Killer())
    read = trainer._read

    def read_then_signal(step, *args):
        read(step, *args)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._read = read_then_signal
    with pytest.raises(SystemExit) as stopped:
        trainer.run()
    assert stopped.value.code == 0
    assert checkpoint.load_params(tmp_path)[1]["step"] >= 5
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_progress_line_shows_rate_and_time_left(tmp_path):
    lines = []
    _trainer(tmp_path, report=lines.append).run()
    assert any("step 6/12" in s and "examples/s" in s and "eta" in s for s in lines)


def test_profile_window_writes_a_trace(tmp_path):
    _trainer(tmp_path, _with(steps=5, profile_first=2, profile_steps=2)).run()
    assert any((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_resume_inside_the_profile_window_goes_on(tmp_path):
    cfg = _with(steps=4, profile_first=1, profile_steps=9)  # the window outlasts the run
    half = _trainer(tmp_path, cfg)
    half.cfg = dataclasses.replace(cfg, steps=2)
    half.run()
    assert any((tmp_path / "profile").rglob("*.xplane.pb"))
    shutil.rmtree(tmp_path / "profile")  # traces of one second share a folder
    _trainer(tmp_path, cfg).run()
    assert any((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_workdir_in_use_is_refused(tmp_path):
    with files.exclusive_lock(tmp_path / "lock"):
        with pytest.raises(files.FileInUseError, match="another process"):
            _trainer(tmp_path).run()


def test_the_averaged_parameters_are_what_is_loaded(tmp_path):
    state = _trainer(tmp_path, _with(ema=0.9)).run()
    params, _ = checkpoint.load_params(tmp_path)
    chex.assert_trees_all_equal(params, jax.tree.map(np.asarray, state.ema))


def test_a_refused_start_leaves_the_run_information(tmp_path):
    _trainer(tmp_path).run()
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(checkpoint.CheckpointError):
        _trainer(tmp_path, run_config={"model": {"width": 32}}).run()
    assert (tmp_path / "config.json").read_text() == before


def test_full_disk_while_logging_is_a_clear_error(tmp_path, monkeypatch):
    trainer = _trainer(tmp_path)
    make = trainer._writers

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    def writers(resume_step):
        writer = make(resume_step)
        writer._writers[0]._file.close()
        writer._writers[0]._file = Full()
        return writer

    monkeypatch.setattr(trainer, "_writers", writers)
    with pytest.raises(files.DiskFullError, match="metrics.jsonl"):
        trainer.run()


def test_a_mesh_axis_that_no_rule_uses_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mesh axes \['dta'\].*not used by the sharding 'fsdp'"):
        _trainer(tmp_path, _with(mesh=(("dta", -1),), sharding="fsdp"))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"steps": 0},
        {"batch_size": 8, "accumulate": 3},
        {"ema": 1.0},
        {"best_mode": "median"},
        {"log_every": 0},
    ],
)
def test_bad_settings_are_refused(kwargs):
    with pytest.raises(ValueError):
        _with(**kwargs)


def test_unknown_best_metric_is_an_error(tmp_path):
    cfg = _with(best_metric="eval/accuracy", eval_every=2)
    with pytest.raises(ValueError, match="best_metric 'eval/accuracy' is not among"):
        _trainer(tmp_path, cfg, ToyTask(eval_rows=8)).run()


class _FrozenTask(ToyTask):
    """Trains the output layer alone, above frozen lower layers."""

    def __init__(self, params):
        super().__init__(eval_rows=16)
        self.frozen = {"blocks": params["blocks"], "bias": params["bias"]}

    def param_specs(self):
        return {"out": super().param_specs()["out"]}

    def loss(self, params, carry, batch, key, frozen):
        return super().loss({**params, **frozen}, carry, batch, key)

    def eval_sums(self, params, batch, frozen):
        return super().eval_sums({**params, **frozen}, batch)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_arrays_are_read_but_neither_trained_nor_saved(tmp_path, accumulate):
    params = init_state(ToyTask(), optim.adamw(optim.AdamWConfig(), {}, 1), CFG, None).params
    before = jax.tree.map(lambda x: np.array(x).tobytes(), params)
    task = _FrozenTask(params)
    trainer = _trainer(tmp_path, _with(accumulate=accumulate), task)
    state = trainer.run()
    assert jax.tree.map(lambda x: np.array(x).tobytes(), params) == before
    assert list(_losses(tmp_path).values())[-1] < list(_losses(tmp_path).values())[0]
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert size(state.params) == 16 * 4
    assert size(state.opt_state) < 2 * 16 * 4 + 10  # two moments of the output layer, counters
    stored, _ = checkpoint.load_params(tmp_path)
    assert list(stored) == ["out"]
    text = trainer.train_step.lower(state, regression_data().get(np.arange(8)), frozen=task.frozen)
    assert "dense<" not in text.as_text().split("@main")[0]
    # The lower layers are an argument of the program, not constants in it.
    assert len(text.args_info[1]["frozen"]["blocks"]) == 1
