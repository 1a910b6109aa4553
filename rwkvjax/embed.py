# SPDX-License-Identifier: Apache-2.0
"""Writes the vectors of the lines of a text file.

    python -m rwkvjax.embed --checkpoint=runs/wikitext2 --input=lines.txt --output=vectors.npy
    python -m rwkvjax.embed --checkpoint=finch.pth --input=lines.txt --output=v.npy \\
        --pooling=state --layer=12

The output is a NumPy array [lines, E] float32; the poolings are described in rwkvjax/embedding.py.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from absl import flags

from core import cli, files
from rwkvjax.checkpoints import load_with_meta
from rwkvjax.embedding import KINDS, Pooling, describe, embed
from rwkvjax.model_flags import tokenizer_for

_FLAGS = flags.FlagValues()
flags.DEFINE_string("checkpoint", None, "A run or weights.", flag_values=_FLAGS, required=True)
flags.DEFINE_string("input", None, "UTF-8 text, one a line.", flag_values=_FLAGS, required=True)
flags.DEFINE_string("output", None, "File to write (.npy).", flag_values=_FLAGS, required=True)
flags.DEFINE_enum("pooling", "mean", KINDS, "What a vector is made of.", flag_values=_FLAGS)
flags.DEFINE_integer("layer", 0, "Which layer, from 1; 0: the last.", 0, flag_values=_FLAGS)
flags.DEFINE_bool("normalize", True, "Scale vectors to length 1.", flag_values=_FLAGS)
flags.DEFINE_integer("batch_size", 32, "Texts at a time.", 1, flag_values=_FLAGS)
flags.DEFINE_string("tokenizer", "", "By default the run's own.", flag_values=_FLAGS)


def main(values: flags.FlagValues) -> None:
    """Embeds every line and writes the array."""
    if not values.output.endswith(".npy"):
        raise flags.Error(f"--output={values.output}: expected a name that ends in .npy")
    with cli.explain():
        cfg, params, meta = load_with_meta(values.checkpoint)
        tokenizer = tokenizer_for(cfg, meta, values.tokenizer)
        how = Pooling(values.pooling, values.layer, values.normalize)
        lines = Path(values.input).read_text(encoding="utf-8").splitlines()
        texts = [tokenizer.encode(line) for line in lines]
        empty = [str(i) for i, ids in enumerate(texts, start=1) if not len(ids)]
        if not lines or empty:
            raise ValueError(
                f"{values.input}: no text in line {', '.join(empty[:5]) or 1};"
                " expected one text in each line"
            )
        vectors = embed(params, cfg, texts, how, batch_size=values.batch_size)
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    files.write_bytes(values.output, buffer.getvalue())
    print(f"{len(vectors)} vectors written to {values.output}: {describe(how, cfg)}")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
