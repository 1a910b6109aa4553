# SPDX-License-Identifier: Apache-2.0
"""RWKV language models as pure functions with explicit state.

    config = rwkvjax.get_config("finch-0.1b")
    params = rwkvjax.init(jax.random.key(0), config)   # or: config, params = rwkvjax.load(path)
    state = rwkvjax.init_state(config, batch_size=1)
    logits, state = rwkvjax.apply(params, config, tokens, state)      # tokens [B, T]
    logits, state = rwkvjax.step(params, config, token, state)        # token [B]

The functions are the same for every version (4, 5.x, 6, 7); `rwkvjax.wkv` holds the bare
recurrences.
"""

from core.version import __version__
from rwkvjax import wkv
from rwkvjax.checkpoints import load
from rwkvjax.config import SIZES, Config, get_config
from rwkvjax.model import apply, init, init_state, param_specs, step
from rwkvjax.sample import Sampling, generate

__all__ = [
    "SIZES",
    "Config",
    "Sampling",
    "__version__",
    "apply",
    "generate",
    "get_config",
    "init",
    "init_state",
    "load",
    "param_specs",
    "step",
    "wkv",
]
