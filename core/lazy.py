# SPDX-License-Identifier: Apache-2.0
"""Packages whose public names are imported at first use, so that programs start sooner.

__getattr__, __dir__ = lazy.attributes(__name__, __all__, {"look": "perception.frontend"})
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attributes(
    package: str, public: Sequence[str], homes: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    Args:
      package: its name.
      public: its public names; those without a home are modules of the package.
      homes: public name -> module that defines it.
    """
    homes = homes or {}

    def find(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        if name in public:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: list(public)
