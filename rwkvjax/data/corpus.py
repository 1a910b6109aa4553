# SPDX-License-Identifier: Apache-2.0
"""Token stores for training from whatever the user names: text files, or prepared binidx files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rwkvjax.data.binidx import MmapTokens
from rwkvjax.data.binidx_builder import stats_path
from rwkvjax.data.inputs import list_inputs
from rwkvjax.data.prepare import load_statistics
from rwkvjax.data.text import DocumentReader, ReadOptions
from rwkvjax.data.windows import ArrayTokens, TokenSlice, TokenStore
from rwkvjax.tokenizers import Tokenizer

# Text tokenised at start-up is held in memory; above this size preparing it first pays.
MAX_TEXT_BYTES = 2 * 2**30


def open_corpus(
    specifications: Sequence[str],
    tokenizer: Tokenizer,
    options: ReadOptions | None = None,
    limit: int = 0,
) -> TokenStore:
    """Tokens of a corpus.

    Args:
      specifications: one prepared binidx file (its name, or that of its .idx or .bin), or any
        number of text inputs as in `rwkvjax.data.inputs`, which are tokenised into memory.
      tokenizer: for text; each document ends with its `end_of_document`, if it has one.
      options: how text is read.
      limit: keep only the first so many tokens; 0 keeps all.

    Raises:
      FileNotFoundError: nothing is found under a specification.
      ValueError: no specification, several binidx files, unreadable documents, or texts so large
        that they should be prepared first.
    """
    if not specifications:
        raise ValueError("no data: name at least one text file, folder, stdlib: or binidx file")
    prepared = [_binidx_name(spec) for spec in specifications]
    if any(prepared):
        if len(specifications) > 1:
            raise ValueError(
                f"a prepared file cannot be joined with other inputs, got {list(specifications)};"
                " prepare them together with rwkvjax.prepare_data, or use a mixture recipe"
            )
        return _open_prepared(str(prepared[0]), tokenizer, limit)
    return ArrayTokens(list(_documents(specifications, tokenizer, options, limit)))


def _open_prepared(name: str, tokenizer: Tokenizer, limit: int) -> TokenStore:
    store = MmapTokens(name)
    if stats_path(name).exists():
        made = load_statistics(name)
        if made.digest and made.digest != tokenizer.digest:
            raise ValueError(
                f"{name} was made with the {made.tokenizer!r} tokenizer"
                f" (digest {made.digest[:12]}), not with {tokenizer.name!r}"
                f" (digest {tokenizer.digest[:12]})"
            )
    return TokenSlice(store, 0, limit) if 0 < limit < store.num_tokens else store


def _binidx_name(specification: str) -> str | None:
    path = Path(specification)
    name = str(path.with_suffix("")) if path.suffix in (".bin", ".idx") else specification
    return name if os.path.exists(name + ".idx") else None


def _documents(
    specifications: Sequence[str], tokenizer: Tokenizer, options: ReadOptions | None, limit: int
) -> Iterator[np.ndarray]:
    files = list_inputs(specifications)
    size = sum(file.path.stat().st_size for file in files)
    if size > MAX_TEXT_BYTES and not limit:
        raise ValueError(
            f"{size / 2**30:.1f} GiB of text is too much to tokenise at every start; prepare it"
            " once with python -m rwkvjax.prepare_data and name the result"
        )
    end = tokenizer.end_of_document
    tail = np.array([] if end is None else [end], np.uint16)
    total = 0
    for file in files:
        for text in DocumentReader(file, options):
            document = np.concatenate([tokenizer.encode(text), tail])
            if limit and total + len(document) >= limit:
                yield document[: limit - total]
                return
            total += len(document)
            yield document
