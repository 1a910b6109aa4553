# SPDX-License-Identifier: Apache-2.0
"""Text to tokens to training examples. NumPy and the standard library only.

`inputs` and `text` find and read documents, `prepare` tokenises them into `binidx` files,
`windows` and `packing` cut these into examples, `mixture` and `recipe` mix sources.
"""

from rwkvjax.data.binidx import BinidxError, MmapTokens
from rwkvjax.data.binidx_builder import BinidxBuilder
from rwkvjax.data.mixture import Mixture, SourceUse, format_report
from rwkvjax.data.packing import PackedDocuments
from rwkvjax.data.recipe import Recipe, build_mixture, load_recipe
from rwkvjax.data.text import DocumentError, DocumentReader, ReadOptions
from rwkvjax.data.windows import ArrayTokens, BinidxWindows, SequentialWindows, sequential_windows

__all__ = [
    "ArrayTokens",
    "BinidxBuilder",
    "BinidxError",
    "BinidxWindows",
    "DocumentError",
    "DocumentReader",
    "Mixture",
    "MmapTokens",
    "PackedDocuments",
    "ReadOptions",
    "Recipe",
    "SequentialWindows",
    "SourceUse",
    "build_mixture",
    "format_report",
    "load_recipe",
    "sequential_windows",
]
