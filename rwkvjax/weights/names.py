# SPDX-License-Identifier: Apache-2.0
"""The official tensor names and shapes of every RWKV version, and our parameter for each of them.

One line describes one tensor: its official name, its official shape, and, when the stored matrix
is the transpose of ours, a final "T". The letters are sizes:

  V vocabulary, D width, A attention width, H heads, N head size, F channel-mixing width,
  R rank of the token-shift LoRA (v6; "5R" is five times that), P rank of the decay LoRA (v6, v7),
  I, U, G ranks of the in-context learning rate, value and gate LoRAs (v7), 1 a literal one.

Source of the names: the checkpoints of BlinkDL/RWKV-LM.
Our parameter for a tensor has the same short name ("att.key.weight" is params["att"]["key"]; norms
keep "weight" and "bias"), no axes of length one in front, and matrices as [in, out].
"""

from __future__ import annotations

import dataclasses
import functools

VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7")

_BEFORE = """
emb.weight  V D
"""
_AFTER = """
ln_out.weight  D
ln_out.bias    D
head.weight    V D  T
"""
_LN0 = """
ln0.weight  D
ln0.bias    D
"""
_NORMS = """
ln1.weight  D
ln1.bias    D
ln2.weight  D
ln2.bias    D
"""
_PROJECTIONS = """
att.receptance.weight  A D  T
att.key.weight         A D  T
att.value.weight       A D  T
att.output.weight      D A  T
"""
_GATE = """
att.gate.weight  A D  T
"""
_HEAD_NORM = """
att.ln_x.weight  A
att.ln_x.bias    A
"""
_MIX_KVR = """
att.time_mix_k  1 1 D
att.time_mix_v  1 1 D
att.time_mix_r  1 1 D
"""
_MIX_G = """
att.time_mix_g  1 1 D
"""
_FFN_MIX = """
ffn.time_mix_k  1 1 D
ffn.time_mix_r  1 1 D
"""
_FFN = """
ffn.key.weight         F D  T
ffn.receptance.weight  D D  T
ffn.value.weight       D F  T
"""

_BLOCK = {
    "4": """
att.time_decay  A
att.time_first  A
"""
    + _MIX_KVR
    + _PROJECTIONS
    + _FFN_MIX
    + _FFN,
    "5.0": _MIX_KVR
    + """
att.time_decay  H
att.time_first  H
"""
    + _PROJECTIONS
    + _HEAD_NORM
    + _FFN_MIX
    + _FFN,
    "5.1": _MIX_KVR
    + _MIX_G
    + """
att.time_decay  H
att.time_faaaa  H
"""
    + _PROJECTIONS
    + _GATE
    + _HEAD_NORM
    + _FFN_MIX
    + _FFN,
    "5.2": _MIX_KVR
    + _MIX_G
    + """
att.time_decay  H N
att.time_faaaa  H N
"""
    + _PROJECTIONS
    + _GATE
    + _HEAD_NORM
    + _FFN_MIX
    + _FFN,
    "6": """
att.time_maa_x     1 1 D
att.time_maa_w     1 1 D
att.time_maa_k     1 1 D
att.time_maa_v     1 1 D
att.time_maa_r     1 1 D
att.time_maa_g     1 1 D
att.time_maa_w1    D 5R
att.time_maa_w2    5 R D
att.time_decay     1 1 A
att.time_decay_w1  D P
att.time_decay_w2  P A
att.time_faaaa     H N
"""
    + _PROJECTIONS
    + _GATE
    + _HEAD_NORM
    + """
ffn.time_maa_k  1 1 D
ffn.time_maa_r  1 1 D
"""
    + _FFN,
    "7": """
att.x_r  1 1 D
att.x_w  1 1 D
att.x_k  1 1 D
att.x_v  1 1 D
att.x_a  1 1 D
att.x_g  1 1 D
att.w0   1 1 A
att.r_k  H N
att.w1   D P
att.w2   P A
att.a1   D I
att.a2   I A
att.a0   1 1 A
att.v1   D U
att.v2   U A
att.v0   1 1 A
att.g1   D G
att.g2   G A
att.k_k  1 1 A
att.k_a  1 1 A
"""
    + _PROJECTIONS
    + _HEAD_NORM
    + """
ffn.x_k           1 1 D
ffn.key.weight    F D  T
ffn.value.weight  D F  T
""",
}

# RWKV-7 mixes the value of later layers with that of layer 0, so layer 0 has no use for its own
# value LoRA; official files hold it or leave it out.
OPTIONAL_IN_BLOCK_0 = {"7": ("att.v0", "att.v1", "att.v2")}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the schema.

    Attributes:
      name: official name; without "blocks.i." for a tensor of a block.
      path: path of our parameter.
      symbols: official shape, in size letters.
      transposed: the official matrix is [out, in], ours [in, out].
    """

    name: str
    path: tuple[str, ...]
    symbols: tuple[str, ...]
    transposed: bool

    def official_shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Shape in an official file."""
        return tuple(value(symbol, sizes) for symbol in self.symbols)

    def our_shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Shape of (one layer of) our parameter."""
        shape = tuple(value(symbol, sizes) for symbol in self.symbols if symbol != "1")
        return shape[::-1] if self.transposed else shape


def value(symbol: str, sizes: dict[str, int]) -> int:
    """Number that a size letter (or "5R", or a literal) stands for."""
    if symbol.isdigit():
        return int(symbol)
    if symbol[0].isdigit():
        return int(symbol[0]) * sizes[symbol[1:]]
    return sizes[symbol]


def _entry(line: str) -> Entry:
    name, *symbols = line.split()
    transposed = symbols[-1] == "T"
    if transposed:
        symbols = symbols[:-1]
    path = name.split(".")
    if name.startswith(("att.", "ffn.")) and path[-1] == "weight" and path[-2] != "ln_x":
        path = path[:-1]
    return Entry(name, tuple(path), tuple(symbols), transposed)


def _entries(table: str) -> tuple[Entry, ...]:
    return tuple(_entry(line) for line in table.splitlines() if line.strip())


@dataclasses.dataclass(frozen=True)
class Schema:
    """All tensors of a version, each group in official order."""

    version: str
    before: tuple[Entry, ...]
    ln0: tuple[Entry, ...]
    block: tuple[Entry, ...]
    after: tuple[Entry, ...]

    def listing(self, layers: int) -> list[tuple[str, Entry, int | None]]:
        """(official name, entry, layer or None) of every tensor in official order."""
        rows: list[tuple[str, Entry, int | None]] = [(e.name, e, None) for e in self.before]
        for layer in range(layers):
            block = self.block
            if layer == 0:  # ln1, ln2, ln0, then the rest: the order of the official modules
                rows += [(f"blocks.0.{e.name}", e, 0) for e in block[:4]]
                rows += [(f"blocks.0.{e.name}", e, None) for e in self.ln0]
                block = block[4:]
            rows += [(f"blocks.{layer}.{e.name}", e, layer) for e in block]
        return rows + [(e.name, e, None) for e in self.after]


@functools.cache
def schema(version: str) -> Schema:
    """The tensors of one version; raises ValueError for an unknown version."""
    if version not in _BLOCK:
        raise ValueError(f"version must be one of {VERSIONS}, got {version!r}")
    return Schema(
        version,
        before=_entries(_BEFORE),
        ln0=_entries(_LN0),
        block=_entries(_NORMS + _BLOCK[version]),
        after=_entries(_AFTER),
    )
