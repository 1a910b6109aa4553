# SPDX-License-Identifier: Apache-2.0
"""Start-up of `jax.distributed`, by explicit address or from the cluster's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax

_VARIABLES = ("RWKVJAX_COORDINATOR", "RWKVJAX_NUM_PROCESSES", "RWKVJAX_PROCESS_ID")


def initialize(
    mode: str = "off",
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    environ: Mapping[str, str] | None = None,
) -> bool:
    """Connects this process to the others; must run before any other use of jax.

    Args:
      mode: "off", "auto" (Cloud TPU, Slurm, Open MPI and Kubernetes are detected by jax), or
        "address" (the three arguments below, or the environment variables RWKVJAX_COORDINATOR,
        RWKVJAX_NUM_PROCESSES and RWKVJAX_PROCESS_ID).
      coordinator: "host:port" of process 0.
      num_processes: total number of processes.
      process_id: index of this process.
      environ: environment to read, `os.environ` by default.

    Returns:
      True when processes were connected.
    """
    environ = os.environ if environ is None else environ
    if mode == "off" and not coordinator and _VARIABLES[0] not in environ:
        return False
    if mode == "auto":
        jax.distributed.initialize()
        return True
    if mode not in ("off", "address"):
        raise ValueError(f"distributed mode must be off, auto or address, got {mode!r}")
    coordinator = coordinator or environ.get(_VARIABLES[0], "")
    num_processes = num_processes or _integer(environ, _VARIABLES[1])
    process_id = process_id if process_id >= 0 else _integer(environ, _VARIABLES[2])
    if ":" not in coordinator or num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            "distributed start-up needs coordinator 'host:port', a positive number of processes and"
            f" a process id below it, got {coordinator=} {num_processes=} {process_id=}"
        )
    # CPU processes talk through gloo; the setting is ignored on accelerators.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes, process_id)
    return True


def _integer(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "-1")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"environment variable {name} must be an integer, got {text!r}") from None
