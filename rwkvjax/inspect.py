# SPDX-License-Identifier: Apache-2.0
"""Says what a file of weights holds, reading only its headers.

    python -m rwkvjax.inspect model.pth
    python -m rwkvjax.inspect folder --mesh data=2,model=4 --sharding fsdp_tp --param_dtype bfloat16

Prints version and sizes, every parameter, the memory on each device of a mesh (which need not exist
here), and the floating-point operations of one token.
"""

from __future__ import annotations

import math
import sys
from collections import Counter

import jax
from absl import flags
from jax.sharding import AbstractMesh, AxisType

from core import cli, sharding
from core import params as params_lib
from rwkvjax import flops, model, weights
from rwkvjax.config import Config
from rwkvjax.weights.infer import infer
from rwkvjax.weights.params import config_of
from rwkvjax.weights.source import dtype_name, dtype_named

# Weights, gradients and two moments of four bytes each.
_TRAINING_BYTES = 16

_FLAGS = flags.FlagValues()
flags.DEFINE_string("path", None, "File or folder.", flag_values=_FLAGS, required=True)
flags.DEFINE_string(
    "mesh", "data=1", "Axes and sizes of the mesh, e.g. data=2,model=4.", flag_values=_FLAGS
)
flags.DEFINE_enum(
    "sharding",
    "fsdp_tp",
    sorted(sharding.PRESETS),
    "How parameters are split over the mesh.",
    flag_values=_FLAGS,
)
flags.DEFINE_enum(
    "param_dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "Of the parameters on the devices; default: that of most tensors.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer("batch", 1, "Sequences, for the states.", 1, flag_values=_FLAGS)


def parse_mesh(text: str) -> dict[str, int]:
    """ "data=2,model=4" -> {"data": 2, "model": 4}; raises ValueError."""
    mesh: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if not name.isidentifier() or not size.isdigit() or int(size) < 1 or name in mesh:
            raise ValueError(f"a mesh is written as axis=size,axis=size; got {text!r}")
        mesh[name] = int(size)
    return mesh


def bytes_per_device(cfg: Config, mesh: dict[str, int], preset: str, itemsize: int) -> int:
    """Bytes of the parameters on each device, for parameters of `itemsize` bytes."""
    abstract = AbstractMesh(tuple(mesh.values()), tuple(mesh), (AxisType.Auto,) * len(mesh))
    rules = sharding.get_rules(preset)
    total = 0
    for spec in jax.tree.leaves(model.param_specs(cfg), is_leaf=params_lib.is_spec):
        spec_axes = sharding.partition_spec(spec.axes, spec.shape, abstract, rules)  # type: ignore[arg-type]
        split = 1
        for axes in spec_axes:
            for axis in (axes,) if isinstance(axes, str) else axes or ():
                split *= mesh[axis]
        total += spec.size // split * itemsize
    return total


def state_bytes(cfg: Config, batch_size: int) -> int:
    """Bytes of the recurrent states of `batch_size` sequences."""
    states = jax.eval_shape(lambda: model.init_state(cfg, batch_size))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(states))


def describe(
    path: str,
    mesh: dict[str, int],
    preset: str = "fsdp_tp",
    param_dtype: str | None = None,
    batch_size: int = 1,
) -> str:
    """The whole account of one file or folder as text; the arguments are those of the flags."""
    tensors, eps = weights.open_model(path)
    version, sizes = infer({n: t.shape for n, t in tensors.items()})
    cfg = config_of(version, sizes, group_norm_eps=eps)
    dtypes = Counter(dtype_name(t.dtype) for t in tensors.values())
    stored = ", ".join(f"{count} {name}" for name, count in dtypes.most_common())
    dtype = dtype_named(param_dtype or dtypes.most_common(1)[0][0])
    on_device = bytes_per_device(cfg, mesh, preset, dtype.itemsize)
    training = bytes_per_device(cfg, mesh, preset, _TRAINING_BYTES)
    forward, backward = flops.forward_flops_per_token(cfg), flops.train_flops_per_token(cfg)
    shape = " x ".join(f"{size} {axis}" for axis, size in mesh.items())
    return "\n".join(
        [
            f"RWKV-{version}  {path}",
            f"  layers {cfg.layers}, width {cfg.dim}, attention {cfg.resolved_att_dim}, "
            f"channel mixing {cfg.resolved_ffn_dim}, vocabulary {cfg.vocab_size}",
            *_version_lines(cfg),
            f"  {len(tensors)} tensors: {stored}",
            "",
            params_lib.summary(model.param_specs(cfg)),
            "",
            f"memory on each device of a mesh {shape}, sharding {preset}",
            f"  parameters as {dtype.name}: {_mebibytes(on_device)}",
            f"  float32 weights, gradients and both moments of Adam: {_mebibytes(training)}",
            f"  states of {batch_size} sequence(s), all devices: "
            f"{_mebibytes(state_bytes(cfg, batch_size))}",
            f"operations of one token: forward {forward:.4g}, training {backward:.4g}",
        ]
    )


def _version_lines(cfg: Config) -> list[str]:
    if cfg.version == "4":
        return []
    lines = [f"  {cfg.heads} heads of {cfg.head_size}, head norm eps {cfg.group_norm_eps:g}"]
    if cfg.version == "6":
        lines.append(f"  ranks: mix {cfg.resolved_mix_rank}, decay {cfg.resolved_decay_rank}")
    if cfg.version == "7":
        lines.append(
            f"  ranks: decay {cfg.resolved_decay_rank}, learning rate {cfg.resolved_iclr_rank}, "
            f"value {cfg.resolved_value_rank}, gate {cfg.resolved_gate_rank}"
        )
    return lines


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def main(values: flags.FlagValues) -> None:
    """Prints the account."""
    try:
        mesh = parse_mesh(values.mesh)
        print(describe(values.path, mesh, values.sharding, values.param_dtype, values.batch))
    except (ValueError, OSError) as error:
        raise cli.UserError(str(error)) from error


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--path={sys.argv[1]}"
    cli.program(main, _FLAGS, __doc__ or "")
