# SPDX-License-Identifier: Apache-2.0
"""Version and sizes of a model from the names and shapes of its tensors, in whatever order.

The version is decided by names of block 0 alone, the sizes by matching the shapes of the schema
against the shapes found; then every tensor is checked, and all that is wrong is said at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rwkvjax.weights import names
from rwkvjax.weights.source import WeightsError

Shapes = Mapping[str, tuple[int, ...]]

# What an unexpected name tells about the file.
_VARIANTS = (
    (r"\.att\.time_maa_rkvw_w1$|\.att\.gate_w1$", "an unreleased RWKV-6 variant (x060a, x060b)"),
    (r"\.ffn\.(s_emb|s0|s1|s2)", "RWKV-7 with DeepEmbed"),
    (r"\.(ffnPre|ffn_pre)\.", "the trainer's pre_ffn option"),
    (r"^head_[qk]\.", "the trainer's head_qk option"),
    (r"\.tiny_(q|k|v|ln|mask)", "the trainer's tiny attention option"),
    (r"^pos_emb", "the trainer's positional embedding option"),
    (r"lora_[AB]|\.lora\.|bone|\.disha", "an adapter: merge it into its base model first"),
    (r"_(mx|my|rx|ry)$", "8-bit weights converted by the rwkv package"),
)


def squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without its axes of length one."""
    return tuple(size for size in shape if size != 1)


def version_of(shapes: Shapes) -> str:
    """RWKV version by the names in block 0 (an order-free rule)."""
    if "blocks.0.ln1.weight" not in shapes or "emb.weight" not in shapes:
        found = ", ".join(sorted(shapes)[:4]) or "nothing"
        raise WeightsError(
            "not an RWKV model: expected tensors emb.weight and blocks.0.ln1.weight, "
            f"found {found}{', ...' if len(shapes) > 4 else ''}"
        )
    if "blocks.0.att.r_k" in shapes:
        return "7"
    if "blocks.0.att.time_maa_x" in shapes:
        return "6"
    if "blocks.0.att.ln_x.weight" not in shapes:
        return "4"
    if "blocks.0.att.gate.weight" not in shapes:
        return "5.0"
    decay = shapes.get("blocks.0.att.time_decay", ())
    # A single head makes (1, N) look like a vector; its length tells channels from heads.
    channels = squeeze(shapes["blocks.0.att.ln_x.weight"])
    per_channel = len(squeeze(decay)) == 2 or squeeze(decay) == channels
    return "5.2" if per_channel else "5.1"


def layer_count(shapes: Iterable[str]) -> int:
    """Number of blocks; raises if their numbers have gaps."""
    found = {int(m.group(1)) for n in shapes if (m := re.match(r"blocks\.(\d{1,6})\.", n))}
    count = max(found, default=-1) + 1
    absent = count - len(found)
    if absent:
        raise WeightsError(
            f"blocks are numbered up to {count - 1}, but {absent} of them are absent"
        )
    return count


def sizes_of(version: str, shapes: Shapes) -> dict[str, int]:
    """Value of every size letter of `names`, and "L" for the number of layers."""
    sizes = {"L": layer_count(shapes)}

    def bind(symbol: str, name: str, axis: int, divisor: int = 1) -> None:
        shape = shapes.get(name)
        if shape is None:
            raise WeightsError(f"a tensor is missing: {name}")
        if not -len(shape) <= axis < len(shape):
            raise WeightsError(f"{name}: expected more dimensions, got shape {shape}")
        sizes[symbol], rest = divmod(shape[axis], divisor)
        if rest or sizes[symbol] < 1:
            raise WeightsError(f"{name}: axis {axis} must be a multiple of {divisor}, got {shape}")

    bind("V", "emb.weight", 0)
    bind("D", "emb.weight", 1)
    bind("A", "blocks.0.att.key.weight", 0)
    bind("F", "blocks.0.ffn.key.weight", 0)
    if version == "6":
        bind("R", "blocks.0.att.time_maa_w1", 1, divisor=5)
        bind("P", "blocks.0.att.time_decay_w1", 1)
    if version == "7":
        for symbol, name in (("P", "w1"), ("I", "a1"), ("G", "g1")):
            bind(symbol, f"blocks.0.att.{name}", 1)
        layer = 0 if "blocks.0.att.v1" in shapes else 1
        if f"blocks.{layer}.att.v1" in shapes:
            bind("U", f"blocks.{layer}.att.v1", 1)
        else:  # one layer, which never uses its value LoRA
            sizes["U"] = sizes["I"]
    if version != "4":
        bind("H", f"blocks.0.att.{_HEADS[version]}", 0)
        if version in ("5.2", "6", "7") and len(shapes[f"blocks.0.att.{_HEADS[version]}"]) == 1:
            sizes["H"] = 1  # somebody squeezed (1, N)
        sizes["N"], rest = divmod(sizes["A"], sizes["H"])
        if rest:
            raise WeightsError(f"{sizes['H']} heads do not divide the width {sizes['A']}")
    return sizes


_HEADS = {
    "5.0": "time_decay",
    "5.1": "time_decay",
    "5.2": "time_faaaa",
    "6": "time_faaaa",
    "7": "r_k",
}


def check(version: str, sizes: Mapping[str, int], shapes: Shapes, *, strict: bool = True) -> None:
    """Raises WeightsError listing missing tensors, wrong shapes and (if strict) unknown names."""
    table = {n: entry for n, entry, _ in names.schema(version).listing(sizes["L"])}
    optional = {f"blocks.0.{n}" for n in names.OPTIONAL_IN_BLOCK_0.get(version, ())}
    problems = [f"missing: {n}" for n in table if n not in shapes and n not in optional]
    for name, entry in table.items():
        if name in shapes:
            expected = entry.official_shape(dict(sizes))
            if squeeze(shapes[name]) != squeeze(expected):
                problems.append(f"{name}: expected shape {expected}, got {shapes[name]}")
    unknown = [n for n in shapes if n not in table and not n.endswith(".att.time_state")]
    if strict and unknown:
        for pattern, meaning in _VARIANTS:
            if any(re.search(pattern, n) for n in unknown):
                problems.append(f"this looks like {meaning}, which is not supported")
        problems += [f"unknown tensor: {n}" for n in unknown]
    if problems:
        shown = "\n  ".join(problems[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise WeightsError(f"not a complete RWKV-{version} model:\n  {shown}{more}")


def infer(shapes: Shapes, *, strict: bool = True) -> tuple[str, dict[str, int]]:
    """(version, sizes) of a complete, consistent model; raises WeightsError otherwise."""
    version = version_of(shapes)
    sizes = sizes_of(version, shapes)
    check(version, sizes, shapes, strict=strict)
    return version, sizes
