# SPDX-License-Identifier: Apache-2.0
"""Where compiled programs are kept between runs."""

from __future__ import annotations

import os
import pathlib
import tempfile


def folder() -> pathlib.Path:
    """JAX_COMPILATION_CACHE_DIR, else rwkvjax/jax in the user's folder for caches."""
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if named:
        return pathlib.Path(named).expanduser().absolute()
    try:
        caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # no home folder is known
        caches = pathlib.Path(tempfile.gettempdir())
    return (caches / "rwkvjax" / "jax").absolute()
