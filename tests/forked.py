# SPDX-License-Identifier: Apache-2.0
"""Runs real programs (`python -m ...`) in forks of one process that has imported the big packages.

A program in a process of its own waits seconds for jax and orbax; a fork starts at once, has its
own flags, folder and environment, and ends as the program would. As a script it is the process that
forks: it reads one JSON object a line and answers with one a line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

# Imported once, before the forks; none of them starts a thread or a device by being imported.
PRELOADED = (
    *("jax", "numpy", "flax", "optax", "orbax.checkpoint", "ml_collections.config_flags"),
    *("matplotlib", "core.loop", "core.cli", "rwkvjax.model", "rwkvjax.experiment"),
)

# One device instead of the suite's eight; the other XLA flags of the suite stay.
ONE_DEVICE = {
    "XLA_FLAGS": re.sub(
        r"(xla_force_host_platform_device_count)=\d+", r"\1=1", os.environ.get("XLA_FLAGS", "")
    )
}


@dataclasses.dataclass(frozen=True)
class Done:
    """How a program ended: its status, what it printed, seconds of processor time."""

    status: int
    out: str
    err: str
    cpu: float


class Programs:
    """The forking process; close it, or use it in a `with` block."""

    def __init__(self, repo: pathlib.Path, folder: pathlib.Path):
        """Starts it; output of the programs goes through files in `folder`."""
        self._folder, self._count = folder, 0
        environment = {**os.environ, "PYTHONPATH": str(repo), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).resolve()), str(repo)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the forking process."""
        self._process.communicate()

    def run(
        self,
        arguments: Sequence[str],
        cwd: pathlib.Path,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 120.0,
        missing: Sequence[str] = (),
        parse_only: bool = False,
    ) -> Done:
        """Runs `python -m arguments...`.

        Args:
          arguments: module and its arguments.
          cwd: folder in which it runs.
          env: changes to the environment.
          stdin: what it reads.
          timeout: seconds after which it is killed (status -9).
          missing: packages that it cannot import.
          parse_only: the program's own flags and configuration are read, then it prints "parsed"
            instead of working.
        """
        self._count += 1
        names = [self._folder / f"{self._count}.{end}" for end in ("in", "out", "err")]
        names[0].write_text(stdin, encoding="utf-8")
        job = {
            **{"arguments": list(arguments), "cwd": str(cwd), "env": dict(env or {})},
            **{"files": [str(n) for n in names], "timeout": timeout, "missing": list(missing)},
            "parse_only": parse_only,
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        out, err = (n.read_text(encoding="utf-8", errors="replace") for n in names[1:])
        return Done(answer["status"], out, err, answer["cpu"])


def _only_parse() -> None:
    """Replaces what programs do by a line that says that their arguments were understood."""
    from absl import app, flags

    from core import cli

    def said(*_: object) -> None:
        print("parsed")

    run, program = cli.run, cli.program
    cli.start_jax = lambda: None
    cli.run = lambda main: run(lambda config, workdir: said(config.to_dict()))
    cli.program = lambda main, values, doc, **how: program(said, values, doc, **how)
    app_run = app.run
    # Programs that do not go through core.cli.
    app.run = lambda main, **how: (
        app_run(main, **how) if how else said(flags.FLAGS(sys.argv, known_only=False))
    )


def _child(job: dict) -> int:
    for number, name in enumerate(job["files"]):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name, flags), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # the old one has read its buffer full
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    for name in job["missing"]:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    if job["parse_only"]:
        _only_parse()
    module, *arguments = job["arguments"]
    sys.argv = [module, *arguments]
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _wait(pid: int, timeout: float) -> tuple[int, float]:
    end = time.monotonic() + timeout
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def main() -> None:
    """Forks for each line of standard input."""
    sys.path[0] = sys.argv[1]
    for name in PRELOADED:
        __import__(name)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_child(job))
        status, cpu = _wait(pid, job["timeout"])
        print(json.dumps({"status": status, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
