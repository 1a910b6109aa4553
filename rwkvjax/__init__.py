# SPDX-License-Identifier: Apache-2.0
"""RWKV language models as pure functions with explicit state.

    config = rwkvjax.get_config("finch-0.1b")
    params = rwkvjax.init(jax.random.key(0), config)   # or: config, params = rwkvjax.load(path)
    state = rwkvjax.init_state(config, batch_size=1)
    logits, state = rwkvjax.apply(params, config, tokens, state)      # tokens [B, T]
    logits, state = rwkvjax.step(params, config, token, state)        # token [B]

The functions are the same for every version (4, 5.x, 6, 7); `rwkvjax.wkv` holds the bare
recurrences. Names are imported at first use, so that programs that only need a tokenizer or the
data tools do not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from core.version import __version__

if TYPE_CHECKING:
    from rwkvjax import wkv
    from rwkvjax.checkpoints import load
    from rwkvjax.config import SIZES, Config, get_config
    from rwkvjax.layout import for_decoding
    from rwkvjax.model import apply, init, init_state, param_specs, step

_HOMES = {
    "load": "rwkvjax.checkpoints",
    "for_decoding": "rwkvjax.layout",
    **dict.fromkeys(("SIZES", "Config", "get_config"), "rwkvjax.config"),
    **dict.fromkeys(("apply", "init", "init_state", "param_specs", "step"), "rwkvjax.model"),
}

__all__ = [
    "SIZES",
    "Config",
    "__version__",
    "apply",
    "for_decoding",
    "get_config",
    "init",
    "init_state",
    "load",
    "param_specs",
    "step",
    "wkv",
]


def __getattr__(name: str) -> Any:
    if name == "wkv":
        return importlib.import_module("rwkvjax.wkv")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rwkvjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
