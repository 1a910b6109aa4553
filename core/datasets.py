# SPDX-License-Identifier: Apache-2.0
"""Where small real data sets lie.

Order of search, first hit wins:

1. the folder named by the environment variable `RWKVJAX_DATA`; once it is set, nothing else is
   tried;
2. `../shared/data` and `shared/data` relative to the root of the checkout, when running from one;
3. for a few sets, installed packages that carry the same files.

Callers that can do without real data catch `FileNotFoundError` and use their own synthetic twin,
under its own name.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

ENVIRONMENT_VARIABLE = "RWKVJAX_DATA"

# Data set -> (module or absolute folder to look in, a file that must be there).
_VOCABULARY_FILE = "rwkv_vocab_v20230424.txt"
_INSTALLED: dict[str, tuple[tuple[str, str], ...]] = {
    "rwkv_vocab": (("pyrwkv_tokenizer", _VOCABULARY_FILE), ("rwkv", _VOCABULARY_FILE)),
    "fashion_mnist": (("/usr/share/datasets/fashion-mnist", "t10k-images-idx3-ubyte.gz"),),
}


def find_dataset(name: str) -> Path:
    """Finds the folder of a data set.

    Args:
      name: folder name, for instance "tiny_shakespeare"; letters, digits, "_", "-" and "." only.

    Returns:
      An existing folder. One of an installed package holds only the files that the package carries.

    Raises:
      ValueError: `name` is not a plain folder name.
      FileNotFoundError: the set is nowhere; the message lists the places tried and says what to do.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"a data set name is a plain folder name, got {name!r}")
    tried: list[str] = []
    for candidate in _candidates(name):
        if candidate.is_dir():
            return candidate
        tried.append(str(candidate))
    raise FileNotFoundError(
        f"data set {name!r} not found; looked in: {', '.join(tried)}. Set "
        f"{ENVIRONMENT_VARIABLE} to a folder that has a subfolder {name!r}."
    )


def _candidates(name: str) -> list[Path]:
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return [Path(named).expanduser() / name]
    root = Path(__file__).resolve().parents[1]
    places = []
    if (root / "pyproject.toml").is_file():
        places = [root.parent / "shared" / "data" / name, root / "shared" / "data" / name]
    return places + _installed_folders(name)


def _installed_folders(name: str) -> list[Path]:
    folders = []
    for place, required in _INSTALLED.get(name, ()):
        if os.path.isabs(place):
            roots = [place]
        else:
            spec = importlib.util.find_spec(place)  # finds a top-level package without importing it
            roots = list(spec.submodule_search_locations or ()) if spec else []
        folders += [Path(root) for root in roots if (Path(root) / required).is_file()]
    return folders


def file_of(name: str, file: str) -> str:
    """Path of one file of a data set for a configuration; where the set is missing, "name/file",
    so that the configuration can be read and the run says what it lacks."""
    try:
        return str(find_dataset(name) / file)
    except FileNotFoundError:
        return f"{name}/{file}"
