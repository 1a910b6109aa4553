# SPDX-License-Identifier: Apache-2.0
"""Merges a LoRA or PiSSA adapter into the weights of its base.

    python -m rwkvjax.merge --base=runs/wikitext2 --adapter=runs/lora/adapter.safetensors \\
        --dst=merged.safetensors
    python -m rwkvjax.merge --base=finch.pth --adapter=rwkv-9.pth --alpha=32 --dst=merged.pth

Takes adapters of this library and of the official tools (whose files do not hold LoRA's alpha; of
PiSSA, `init_NAME.pth` beside the adapter, or --initial). A tuned state is not merged but loaded by
the official package from the same file as the weights: --dst=NAME.pth writes such a file.
"""

from __future__ import annotations

import os

from absl import flags

from core import cli, files
from rwkvjax import checkpoints, weights
from rwkvjax.finetune import load_adapter
from rwkvjax.weights import pth
from rwkvjax.weights.params import official_tensors
from rwkvjax.weights.source import in_memory

_FLAGS = flags.FlagValues()
flags.DEFINE_string("base", None, "Weights or checkpoint.", flag_values=_FLAGS, required=True)
flags.DEFINE_string("adapter", None, "The adapter's file.", flag_values=_FLAGS, required=True)
flags.DEFINE_string("dst", None, "File or folder to write.", flag_values=_FLAGS, required=True)
flags.DEFINE_enum(
    "format", "", ["", *weights.FORMATS], "What to write; default: by --dst.", flag_values=_FLAGS
)
flags.DEFINE_float("alpha", None, "LoRA's alpha, for official files.", flag_values=_FLAGS)
flags.DEFINE_string("initial", None, "PiSSA's initial factors.", flag_values=_FLAGS)
flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16", "float16"], "Default: the base's.", flag_values=_FLAGS
)
flags.DEFINE_bool("overwrite", False, "Replace what is at --dst.", flag_values=_FLAGS)


def main(values: flags.FlagValues) -> None:
    """Merges and writes."""
    with cli.explain():
        chosen = values.format or weights.format_of(values.dst)
        adapter = load_adapter(values.adapter, alpha=values.alpha, initial=values.initial)
        cfg, params = checkpoints.load(values.base)
        merged = adapter.apply(cfg, params, merge=True)
        if adapter.kind == "state":
            if chosen != "pth":
                raise ValueError("weights and a tuned state go together only in a .pth file")
            if os.path.exists(values.dst) and not values.overwrite:
                raise FileExistsError(f"{values.dst} exists already; choose another or --overwrite")
            tensors = official_tensors(cfg, params) | in_memory(adapter.tensors)
            with files.atomic_write(values.dst) as file:
                pth.write_pth(file, tensors)
        else:
            weights.save(
                values.dst,
                cfg,
                merged,
                format=chosen,
                dtype=values.dtype,
                overwrite=values.overwrite,
            )
    what = "its tuned state" if adapter.kind == "state" else "the merged weights"
    print(f"RWKV-{cfg.version} with {what} written to {values.dst}")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
