# SPDX-License-Identifier: Apache-2.0
"""Converts weights between formats, one tensor at a time.

    python -m rwkvjax.convert --src finch.pth --dst model.safetensors --format safetensors
    python -m rwkvjax.convert --src model.safetensors --dst folder --format hf --dtype bfloat16
    python -m rwkvjax.convert --src eagle.pth --dst finch.pth --format pth --upcycle

Sources: official .pth, safetensors (one file or shards), folders of Hugging Face and
flash-linear-attention models, rwkv.cpp files (quantised ones are decoded), web-rwkv files, and this
library's own checkpoints. Targets: pth, safetensors, hf, fla, checkpoint. The result appears only
when it is complete, and is read again and compared unless --noverify.
"""

from __future__ import annotations

from absl import flags

from core import cli
from rwkvjax import weights

_FLAGS = flags.FlagValues()
flags.DEFINE_string("src", None, "File or folder to read.", flag_values=_FLAGS, required=True)
flags.DEFINE_string("dst", None, "File or folder to write.", flag_values=_FLAGS, required=True)
flags.DEFINE_enum(
    "format", None, weights.FORMATS, "What to write; default: by --dst.", flag_values=_FLAGS
)
flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "Convert all tensors; default: keep.",
    flag_values=_FLAGS,
)
flags.DEFINE_bool(
    "upcycle", False, "Turn an RWKV-5 model into the start of an RWKV-6.", flag_values=_FLAGS
)
flags.DEFINE_integer("seed", 0, "Of the new matrices of --upcycle.", flag_values=_FLAGS)
flags.DEFINE_float(
    "group_norm_eps",
    None,
    "Epsilon of the head norm that the model needs; default: by source.",
    flag_values=_FLAGS,
)
flags.DEFINE_bool("overwrite", False, "Replace what is at --dst.", flag_values=_FLAGS)
flags.DEFINE_bool("verify", True, "Read the result again and compare.", flag_values=_FLAGS)
flags.DEFINE_bool("strict", True, "Refuse tensors that no RWKV model has.", flag_values=_FLAGS)
flags.DEFINE_bool("names", False, "List every tensor with its new name.", flag_values=_FLAGS)


def main(values: flags.FlagValues) -> None:
    """Runs the conversion and prints the report."""
    try:
        tensors, eps = weights.open_model(values.src)
        if values.upcycle:
            tensors = weights.upcycle(tensors, seed=values.seed)
        report = weights.write(
            values.dst,
            tensors,
            format=values.format or weights.format_of(values.dst),
            dtype=values.dtype,
            strict=values.strict,
            overwrite=values.overwrite,
            group_norm_eps=eps if values.group_norm_eps is None else values.group_norm_eps,
            verify=values.verify,
        )
    except (ValueError, OSError) as error:
        raise cli.UserError(str(error)) from error
    print(report.text(all_names=values.names))
    print(f"written to {values.dst}{' and read back' if values.verify else ''}")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
