# SPDX-License-Identifier: Apache-2.0
"""What a run was: its configuration, command, versions, revision and devices, as config.json."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from core import config as config_lib
from core import files


def write(workdir: str | os.PathLike[str], config: Any) -> None:
    """Writes config.json: resolved configuration, versions, git revision, devices."""
    import jax  # here, so that programs without arrays start quickly
    import numpy as np

    info = {
        "config": config_lib.to_dict(config),
        "command": sys.argv,
        "git_revision": git_revision(),
        "versions": {
            "python": sys.version.split()[0],
            "jax": jax.__version__,
            "numpy": np.__version__,
        },
        "devices": [str(d) for d in jax.devices()],
    }
    path = pathlib.Path(workdir) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(info, indent=2) + "\n")


def git_revision() -> str:
    """Revision of the checkout this file lies in, "" outside of one."""
    root = pathlib.Path(__file__).resolve().parent.parent
    try:
        out = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return out.stdout.strip()
