# SPDX-License-Identifier: Apache-2.0
"""Serving: an engine with continuous batching and an OpenAI-compatible interface (extra `serve`).

`engine.Engine` is the pure part, `worker.Worker` runs it in a thread, `api.make_app` is the ASGI
application and `python -m rwkvjax.serve` the program. See docs/serving.md.
"""

from rwkvjax.serving.adapters import AdapterStore, FixedAdapters, FolderAdapters, Variant
from rwkvjax.serving.engine import Engine, Limits
from rwkvjax.serving.prefix_cache import PrefixCache
from rwkvjax.serving.sequence import Output, Request, TokenInfo

__all__ = [
    "AdapterStore",
    "Engine",
    "FixedAdapters",
    "FolderAdapters",
    "Limits",
    "Output",
    "PrefixCache",
    "Request",
    "TokenInfo",
    "Variant",
]
