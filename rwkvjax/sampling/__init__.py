# SPDX-License-Identifier: Apache-2.0
"""Sampling: from logits to tokens, and from prompts to continuations.

    how = Sampling(temperature=0.8, top_p=0.9, stop=(0,))
    for ids in stream(params, cfg, prompts, max_tokens=100, how=how):   # prompts: B lists of ids
        ...                                                             # ids [B, up to 16]

`Sampling` lists the order of operations; `official()` gives the official package's defaults and
oddities; `oracle` is the slow form in NumPy.
"""

from rwkvjax.sampling.drawing import Rows, draw, row, rows_of
from rwkvjax.sampling.generation import ENDED, generate, prefill, segments, stream
from rwkvjax.sampling.settings import Sampling, official, token_weights

__all__ = [
    "ENDED",
    "Rows",
    "Sampling",
    "draw",
    "generate",
    "official",
    "prefill",
    "row",
    "rows_of",
    "segments",
    "stream",
    "token_weights",
]
