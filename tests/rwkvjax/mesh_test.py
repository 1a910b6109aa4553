# SPDX-License-Identifier: Apache-2.0
"""A language model trains alike on every mesh, and a run moves between meshes and processes."""

import os
import socket
import subprocess

import numpy as np
import pytest

from core import metrics
from rwkvjax import experiment

STEPS = 4


def _config(text, mesh, preset, steps=STEPS):
    return experiment.build_config(
        {
            "model": {
                **{"version": "6", "dim": 32, "layers": 2, "head_size": 8, "wkv": "scan"},
                **{"mix_rank": 4, "decay_rank": 8},
            },
            "data": {"train": (text,), "context": 16},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
            "train": {
                **{"steps": steps, "batch_size": 8, "log_every": 1, "save_every": 2},
                **{"mesh": mesh, "sharding": preset},
            },
        }
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "a.txt"
    words = np.random.default_rng(0).choice(["alpha ", "beta ", "gamma\n"], 600)
    path.write_text("".join(words))
    return str(path)


def _losses(workdir):
    return [r["loss"] for r in metrics.read_jsonl(workdir / "metrics.jsonl") if "loss" in r]


def _train(text, workdir, mesh, preset, steps=STEPS):
    trainer = experiment.make_trainer(_config(text, mesh, preset), workdir, lambda line: None)
    if steps != STEPS:  # stop early; the schedule stays that of the whole run
        trainer.cfg = type(trainer.cfg)(**{**vars(trainer.cfg), "steps": steps})
    trainer.run()
    return _losses(workdir)


def test_losses_do_not_depend_on_the_mesh(text, tmp_path):
    found = {
        name: _train(text, tmp_path / name, mesh, preset)
        for name, mesh, preset in (
            ("8x1 dp", {"data": 8, "model": 1}, "dp"),
            ("4x2 fsdp_tp", {"data": 4, "model": 2}, "fsdp_tp"),
            ("2x4 tp", {"data": 2, "model": 4}, "tp"),
            ("2, 4 over time", {"data": 2, "sequence": 4}, "dp"),
            ("2x2x2 fsdp_tp", {"data": 2, "sequence": 2, "model": 2}, "fsdp_tp"),
        )
    }
    reference = found["8x1 dp"]
    assert len(reference) == STEPS and reference[-1] < reference[0]
    for name, losses in found.items():
        np.testing.assert_allclose(losses, reference, atol=2e-5, err_msg=name)
    # Two steps on 8x1, the rest on 4x2.
    _train(text, tmp_path / "moved", {"data": 8, "model": 1}, "dp", steps=2)
    moved = _train(text, tmp_path / "moved", {"data": 4, "model": 2}, "fsdp_tp")
    np.testing.assert_allclose(moved, reference, atol=1e-5)


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_the_binary_runs_on_two_processes(text, tmp_path, python, repo):
    args = [
        *("--config=configs/rwkvjax/quickstart.py", f"--config.data.train=('{text}',)"),
        *("--config.data.heldout=()", "--config.data.context=16", "--config.sample.prompts=()"),
        *("--config.model.dim=32", "--config.model.layers=1", "--config.model.head_size=16"),
        *("--config.train.steps=3", "--config.train.batch_size=4", "--config.train.log_every=1"),
    ]

    def run(name, processes):
        port = _free_port()
        running = []
        for index in range(processes):
            env = {**os.environ, "JAX_PLATFORMS": "cpu"}
            env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={2 // processes}"
            extra = [f"--workdir={tmp_path / name}"]
            if processes > 1:
                extra += ["--distributed=address", f"--coordinator=127.0.0.1:{port}"]
                extra += [f"--num_processes={processes}", f"--process_id={index}"]
            running.append(
                subprocess.Popen(
                    [python, "-m", "rwkvjax.train", *args, *extra],
                    cwd=repo,
                    env=env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [p.communicate(timeout=240)[0] for p in running]
        assert all(p.returncode == 0 for p in running), "\n".join(outputs)
        return _losses(tmp_path / name)

    np.testing.assert_allclose(run("two", 2), run("one", 1), atol=2e-5)
