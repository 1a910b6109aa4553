# SPDX-License-Identifier: Apache-2.0
import os
import resource
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from core import checkpoint

PARAMS = {"a": {"w": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(4, jnp.bfloat16)}


def _save(directory, step, params=PARAMS):
    saver = checkpoint.Checkpointer(directory)
    saver.save(step, params, {"step": jnp.asarray(step)}, {"note": "x", "step": step})
    saver.close()


def test_parameters_alone_round_trip(tmp_path):
    _save(tmp_path / "checkpoints", 3)
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "3"):
        params, meta = checkpoint.load_params(path)
        np.testing.assert_array_equal(params["a"]["w"], PARAMS["a"]["w"])
        assert params["b"].dtype == jnp.bfloat16
        assert meta == {"note": "x", "step": 3}
    assert checkpoint.load_params(tmp_path, dtype=jnp.float32)[0]["b"].dtype == jnp.float32


def test_reading_leaves_an_unfinished_save_alone(tmp_path):
    _save(tmp_path, 3)
    unfinished = tmp_path / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    checkpoint.load_params(tmp_path)
    assert unfinished.is_dir()


def test_newest_are_kept(tmp_path):
    for step in (1, 2, 5, 9):
        _save(tmp_path, step)
    assert checkpoint.Checkpointer(tmp_path).steps() == [2, 5, 9]
    assert checkpoint.find(tmp_path) == (tmp_path.resolve(), 9)


def test_a_relative_directory_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _save("relative", 1)
    assert (tmp_path / "relative" / "1" / "params").is_dir()


def test_saving_an_old_step_is_an_error(tmp_path):
    _save(tmp_path, 5)
    with pytest.raises(checkpoint.CheckpointError, match="5"):
        _save(tmp_path, 5)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint found"):
        checkpoint.load_params(tmp_path)


def test_damaged_checkpoint_names_the_step(tmp_path):
    _save(tmp_path, 4)
    shutil.rmtree(tmp_path / "4" / "params" / "d", ignore_errors=True)
    for file in (tmp_path / "4" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match="cannot read step 4"):
        checkpoint.load_params(tmp_path)


def _save_with_little_room(directory, status):
    """In a child process: a good save, then one that the file-size limit stops."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _save(directory, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        rng = np.random.default_rng(0)
        _save(directory, 2, {"a": {"w": jnp.asarray(rng.normal(size=(400, 400)))}})
    except checkpoint.CheckpointError as error:
        os.write(status, str(error).encode())


def test_full_disk_is_a_clear_error_and_keeps_the_last_checkpoint(tmp_path, python, repo):
    import subprocess

    code = (
        "import sys; sys.path.insert(0, '.');"
        "from tests.core.checkpoint_test import _save_with_little_room as f;"
        f"f({str(tmp_path)!r}, 1)"
    )
    out = subprocess.run(
        [python, "-c", code], cwd=repo, capture_output=True, text=True, timeout=120
    )
    assert "could not save" in out.stdout, out.stdout + out.stderr
    assert "disk is full" in out.stdout and "newest complete checkpoint is step 1" in out.stdout
    params, meta = checkpoint.load_params(tmp_path)
    assert meta["step"] == 1
    np.testing.assert_array_equal(params["a"]["w"], PARAMS["a"]["w"])
