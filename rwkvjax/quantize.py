# SPDX-License-Identifier: Apache-2.0
"""Quantises the weights of a model to 8 or 4 bits and writes them to one file.

    python -m rwkvjax.quantize --src=runs/quickstart --dst=quickstart-int8.safetensors
    python -m rwkvjax.quantize --src=finch.pth --dst=finch-int4.safetensors --bits=4 --group_size=64

Everything that loads a model takes the file, for instance `python -m rwkvjax.generate`.
"""

from __future__ import annotations

import os

from absl import flags

from core import cli
from rwkvjax import checkpoints, quantization

_FLAGS = flags.FlagValues()
flags.DEFINE_string("src", None, "Weights or checkpoint.", flag_values=_FLAGS, required=True)
flags.DEFINE_string("dst", None, "File to write.", flag_values=_FLAGS, required=True)
flags.DEFINE_enum("bits", "8", ["8", "4"], "Bits of a weight.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "group_size", 0, "Inputs that share a scale; 0: one scale a channel.", 0, flag_values=_FLAGS
)
flags.DEFINE_bool("head", True, "Quantise the output head.", flag_values=_FLAGS)
flags.DEFINE_bool("embedding", True, "Quantise the embedding to 8 bits.", flag_values=_FLAGS)
flags.DEFINE_bool("overwrite", False, "Replace what is at --dst.", flag_values=_FLAGS)


def main(values: flags.FlagValues) -> None:
    """Quantises, writes and reports the sizes."""
    with cli.explain():
        if os.path.exists(values.dst) and not values.overwrite:
            raise FileExistsError(
                f"{values.dst} exists already; choose another name or --overwrite"
            )
        cfg, params = checkpoints.load(values.src)
        how = quantization.QuantizeConfig(
            int(values.bits), values.group_size, values.head, values.embedding
        )
        small = quantization.quantize(params, how)
        quantization.save(values.dst, cfg, small)
    before, after = quantization.nbytes(params), quantization.nbytes(small)
    print(
        f"RWKV-{cfg.version}: {before / 2**20:.2f} MiB -> {after / 2**20:.2f} MiB"
        f" ({before / after:.2f} times smaller), written to {values.dst}"
    )


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
