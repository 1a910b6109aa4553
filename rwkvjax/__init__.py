# SPDX-License-Identifier: Apache-2.0
"""RWKV language models as pure functions with explicit state.

    config = rwkvjax.get_config("finch-0.1b")
    params = rwkvjax.init(jax.random.key(0), config)   # or: config, params = rwkvjax.load(path)
    state = rwkvjax.init_state(config, batch_size=1)
    logits, state = rwkvjax.apply(params, config, tokens, state)      # tokens [B, T]
    logits, state = rwkvjax.step(params, config, token, state)        # token [B]

The functions are the same for every version (4, 5.x, 6, 7); `rwkvjax.wkv` holds the bare
recurrences, and `rwkvjax.weights`, `.tokenizers`, `.sampling`, `.finetune`, `.quantization` and
`.embedding` what their names say. Names are imported at first use, so that programs that only need
a tokenizer or the data tools do not wait for jax.
"""

from typing import TYPE_CHECKING

from core import lazy
from core.version import __version__

if TYPE_CHECKING:
    from rwkvjax import embedding, finetune, quantization, sampling, tokenizers, weights, wkv
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
    "embedding",
    "finetune",
    "for_decoding",
    "get_config",
    "init",
    "init_state",
    "load",
    "param_specs",
    "quantization",
    "sampling",
    "step",
    "tokenizers",
    "weights",
    "wkv",
]

__getattr__, __dir__ = lazy.attributes(__name__, __all__, _HOMES)
