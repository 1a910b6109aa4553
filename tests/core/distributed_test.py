# SPDX-License-Identifier: Apache-2.0
"""Two real processes, connected on this machine, train like one."""

import os
import socket
import subprocess

import pytest

from core import distributed, metrics

STEPS = 8


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _run(python, repo, workdir, processes, mesh):
    port = _free_port()
    running = []
    for index in range(processes):
        env = {**os.environ, "JAX_PLATFORMS": "cpu"}
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // processes}"
        if processes > 1:
            env["RWKVJAX_COORDINATOR"] = f"127.0.0.1:{port}"
            env["RWKVJAX_NUM_PROCESSES"] = str(processes)
            env["RWKVJAX_PROCESS_ID"] = str(index)
        command = [python, "-m", "tests.core.run_toy", str(workdir), str(STEPS), "0", *mesh]
        running.append(
            subprocess.Popen(
                command,
                cwd=repo,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [p.communicate(timeout=180)[0] for p in running]
    assert all(p.returncode == 0 for p in running), "\n".join(outputs)
    records = metrics.read_jsonl(workdir / "metrics.jsonl")
    return [r["loss"] for r in records if "loss" in r], outputs


@pytest.mark.parametrize("mesh", [("4", "1", "fsdp"), ("2", "2", "tp")])
def test_two_processes_equal_one(tmp_path, python, repo, mesh):
    one, _ = _run(python, repo, tmp_path / "one", 1, mesh)
    two, outputs = _run(python, repo, tmp_path / "two", 2, mesh)
    assert len(one) == STEPS
    assert two == pytest.approx(one, abs=2e-5)
    assert "loss" in outputs[0] and "loss" not in outputs[1]  # one process reports
    # The checkpoint of two processes is continued by one: nothing is left to do.
    again, outputs = _run(python, repo, tmp_path / "two", 1, mesh)
    assert f"resumed from step {STEPS}" in outputs[0]
    assert again == two


def test_bad_addresses_are_refused():
    for kwargs in (
        {"coordinator": "localhost", "num_processes": 2, "process_id": 0},
        {"coordinator": "localhost:1", "num_processes": 0, "process_id": 0},
        {"coordinator": "localhost:1", "num_processes": 2, "process_id": 2},
    ):
        with pytest.raises(ValueError, match="needs coordinator"):
            distributed.initialize("address", environ={}, **kwargs)
    with pytest.raises(ValueError, match="must be off, auto or address"):
        distributed.initialize("on", coordinator="a:1", environ={})
    with pytest.raises(ValueError, match="RWKVJAX_NUM_PROCESSES must be an integer"):
        env = {"RWKVJAX_COORDINATOR": "a:1", "RWKVJAX_NUM_PROCESSES": "two"}
        distributed.initialize(environ=env)
    assert distributed.initialize(environ={}) is False
