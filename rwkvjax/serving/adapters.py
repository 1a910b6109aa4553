# SPDX-License-Identifier: Apache-2.0
"""Where the server finds the adapters that requests name as `base@adapter`."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rwkvjax.config import Config

Params = dict


@dataclasses.dataclass(frozen=True)
class Variant:
    """What an adapter changes.

    Attributes:
      params: weights to use instead of the base's (arrays may be shared with it); None: the base's.
        Requests with the same `params` object run in one batch.
      state: where sequences start, [L, 1, ...]; None: the model's usual start.
      serial: number of this object, never used again in this process; states in the prefix cache
        belong to it.
    """

    params: Params | None = None
    state: Any = None
    serial: int = dataclasses.field(default_factory=itertools.count().__next__)


BASE = Variant()


class AdapterStore(Protocol):
    """A source of adapters, called by any thread."""

    def names(self) -> list[str]:
        """Adapters that exist now; may change while the server runs."""
        ...

    def get(self, name: str) -> Variant:
        """An adapter's variant of the base, the same object while it stays loaded.

        Raises:
          KeyError: there is none of that name.
          ValueError, OSError: it cannot be loaded or does not fit the model.
        """
        ...


class FixedAdapters:
    """Adapters that are in memory already."""

    def __init__(self, variants: Mapping[str, Variant] | None = None):
        self._variants = dict(variants or {})

    def names(self) -> list[str]:
        return sorted(self._variants)

    def get(self, name: str) -> Variant:
        return self._variants[name]


class FolderAdapters:
    """The files of a folder: `shakespeare.safetensors` is the adapter `shakespeare`.

    Files may be added, replaced or removed while the server runs; the most recently used
    `max_loaded` stay in memory.
    """

    _ENDINGS = (".safetensors", ".pth")
    _NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")

    def __init__(self, folder: str | os.PathLike[str], cfg: Config, base: Params, max_loaded: int):
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise FileNotFoundError(f"the folder of adapters {folder} does not exist")
        self._cfg, self._base, self._max_loaded = cfg, base, max_loaded
        self._loaded: OrderedDict[tuple[str, int], Variant] = OrderedDict()
        self._lock = threading.Lock()

    def _files(self) -> dict[str, Path]:
        found = {}
        for path in sorted(self._folder.iterdir()):
            if path.suffix in self._ENDINGS and self._NAME.fullmatch(path.stem) and path.is_file():
                found[path.stem] = path
        return found

    def names(self) -> list[str]:
        return sorted(self._files())

    def get(self, name: str) -> Variant:
        path = self._files()[name]
        key = (name, path.stat().st_mtime_ns)
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = self._load(path)
            self._loaded.move_to_end(key)
            while len(self._loaded) > self._max_loaded:
                self._loaded.popitem(last=False)
            return self._loaded[key]

    def _load(self, path: Path) -> Variant:
        from rwkvjax.finetune import load_adapter

        adapter = load_adapter(path)
        if adapter.kind == "state":
            return Variant(state=adapter.initial_state(self._cfg, batch_size=1))
        return Variant(params=adapter.apply(self._cfg, self._base))
