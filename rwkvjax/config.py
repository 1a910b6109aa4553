# SPDX-License-Identifier: Apache-2.0
"""One configuration for every version of RWKV, and the published sizes by name."""

from __future__ import annotations

import dataclasses

VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7")
# Setting of `Config.ddlerp` -> the mixes that depend on the data, in the official order.
DDLERP = {"all": "wkvrg", "decay": "w", "none": ""}


@dataclasses.dataclass(frozen=True)
class Config:
    """Shape of an RWKV model and how it is computed.

    A field that is 0 takes the official rule for the version; `resolved_*` properties give it.

    Attributes:
      version: "4", "5.0", "5.1", "5.2" (Eagle), "6" (Finch) or "7" (Goose).
      vocab_size: number of token ids.
      dim: model width D.
      layers: number of blocks L.
      head_size: channels of a head N (not used by version 4).
      att_dim: width of the time mixing A; 0 means D.
      ffn_dim: width of the channel mixing F; 0 means 4D (versions 4, 7), or 3.5D rounded down to a
        multiple of 32 (versions 5, 6).
      ddlerp: which of the five token shifts of the time mixing depend on the data (version 6):
        "all" as published, "decay" alone, or "none" (constant as in Eagle); the last two are for
        ablations and have no place in the official layout.
      mix_rank: rank of the data-dependent token shift (version 6).
      decay_rank: rank of the data-dependent decay (versions 6, 7).
      iclr_rank, value_rank, gate_rank: ranks of version 7.
      group_norm_eps: epsilon of the per-head norm; official 64e-5. Files of rwkv.cpp for version 5
        were made with 1e-5.
      layer_norm_eps: epsilon of every other norm.
      embedding_init: half-width of the uniform start of the embedding; RWKV-4's own trainer used
        its learning rate here.
      dtype: dtype of activations and matrix products; states and decays are always float32.
      remat: what the backward pass recomputes in each block: "none", "full", or "dots" (keeps
        matrix products).
      wkv: implementation of the recurrence: "auto", "scan", "chunked", or "pallas" (versions 5 and
        6; see `rwkvjax.wkv.pallas`).
      wkv_chunk: chunk length; 0 lets the implementation choose.
      time_axis: mesh axis over which time is split, inside shard_map only; set by
        `rwkvjax.context_parallel`, not by users.
    """

    version: str = "6"
    vocab_size: int = 65536
    dim: int = 768
    layers: int = 12
    head_size: int = 64
    att_dim: int = 0
    ffn_dim: int = 0
    ddlerp: str = "all"
    mix_rank: int = 0
    decay_rank: int = 0
    iclr_rank: int = 0
    value_rank: int = 0
    gate_rank: int = 0
    group_norm_eps: float = 64e-5
    layer_norm_eps: float = 1e-5
    embedding_init: float = 1e-4
    dtype: str = "float32"
    remat: str = "none"
    wkv: str = "auto"
    wkv_chunk: int = 0
    time_axis: str = ""

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(f"version must be one of {VERSIONS}, got {self.version!r}")
        for name in ("vocab_size", "dim", "layers", "head_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        ranks = ("mix_rank", "decay_rank", "iclr_rank", "value_rank", "gate_rank")
        for name in ("att_dim", "ffn_dim", *ranks, "wkv_chunk", "embedding_init"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.version != "4" and self.resolved_att_dim % self.head_size:
            raise ValueError(
                f"att_dim {self.resolved_att_dim} is not a multiple of {self.head_size=}"
            )
        if self.ddlerp not in DDLERP:
            raise ValueError(f"ddlerp must be one of {tuple(DDLERP)}, got {self.ddlerp!r}")
        if self.ddlerp != "all" and self.version != "6":
            raise ValueError(
                f"ddlerp {self.ddlerp!r} is for version 6, got version {self.version!r}"
            )
        if self.remat not in ("none", "full", "dots"):
            raise ValueError(f"remat must be none, full or dots, got {self.remat!r}")
        if self.wkv not in ("auto", "scan", "chunked", "pallas"):
            raise ValueError(f"wkv must be auto, scan, chunked or pallas, got {self.wkv!r}")
        if self.wkv == "pallas" and self.version[0] not in "56":
            raise ValueError(f"Pallas kernels exist for versions 5 and 6, got {self.version!r}")
        if self.dtype not in ("float32", "bfloat16", "float16", "float64"):
            raise ValueError(f"dtype must name a floating type, got {self.dtype!r}")

    @property
    def resolved_att_dim(self) -> int:
        """A."""
        return self.att_dim or self.dim

    @property
    def heads(self) -> int:
        """H = A / N."""
        return self.resolved_att_dim // self.head_size

    @property
    def resolved_ffn_dim(self) -> int:
        """F."""
        if self.ffn_dim:
            return self.ffn_dim
        if self.version in ("4", "7"):
            return 4 * self.dim
        return max(32, int(3.5 * self.dim) // 32 * 32)

    @property
    def resolved_mix_rank(self) -> int:
        """Rank of ddlerp: 32, and 64 for width 4096 and above."""
        return self.mix_rank or (64 if self.dim >= 4096 else 32)

    @property
    def resolved_decay_rank(self) -> int:
        """Rank of the decay: 64 (128 at width 4096); version 7: 1.8 sqrt(D) in steps of 32."""
        if self.decay_rank:
            return self.decay_rank
        if self.version == "7":
            return _rank7(1.8 * self.dim**0.5)
        return 128 if self.dim >= 4096 else 64

    @property
    def resolved_iclr_rank(self) -> int:
        """Rank of the in-context learning rate (version 7)."""
        return self.iclr_rank or _rank7(1.8 * self.dim**0.5)

    @property
    def resolved_value_rank(self) -> int:
        """Rank of the value residual (version 7)."""
        return self.value_rank or _rank7(1.3 * self.dim**0.5)

    @property
    def resolved_gate_rank(self) -> int:
        """Rank of the gate (version 7)."""
        return self.gate_rank or _rank7(0.6 * self.dim**0.8)

    @property
    def chunk(self) -> int | None:
        """Chunk length for the recurrence, None for its default."""
        return self.wkv_chunk or None


def _rank7(value: float) -> int:
    return max(32, round(value / 32) * 32)


def _pile(dim: int, layers: int) -> Config:
    return Config(version="4", vocab_size=50277, dim=dim, layers=layers)


def _eagle(dim: int, layers: int) -> Config:
    return Config(version="5.2", dim=dim, layers=layers)


def _finch(dim: int, layers: int) -> Config:
    return Config(version="6", dim=dim, layers=layers)


def _goose(dim: int, layers: int, gate_rank: int = 0) -> Config:
    return Config(version="7", dim=dim, layers=layers, gate_rank=gate_rank)


# Published sizes (and the two small Finch shapes of the family, which were not released).
SIZES: dict[str, Config] = {
    "rwkv4-pile-0.1b": _pile(768, 12),
    "rwkv4-pile-0.4b": _pile(1024, 24),
    "rwkv4-pile-1.5b": _pile(2048, 24),
    "rwkv4-pile-3b": _pile(2560, 32),
    "rwkv4-pile-7b": _pile(4096, 32),
    "rwkv4-pile-14b": _pile(5120, 40),
    "eagle-0.1b": _eagle(768, 12),
    "eagle-0.4b": _eagle(1024, 24),
    "eagle-1.5b": _eagle(2048, 24),
    "eagle-3b": _eagle(2560, 32),
    "eagle-7b": _eagle(4096, 32),
    "finch-0.1b": _finch(768, 12),
    "finch-0.4b": _finch(1024, 24),
    "finch-1.6b": _finch(2048, 24),
    "finch-3b": _finch(2560, 32),
    "finch-7b": _finch(4096, 32),
    "finch-14b": _finch(4096, 61),
    "goose-0.1b": _goose(768, 12),
    "goose-0.4b": _goose(1024, 24, gate_rank=128),  # the one published size off the rule (160)
    "goose-1.5b": _goose(2048, 24),
    "goose-2.9b": _goose(2560, 32),
    "goose-7.2b": _goose(4096, 32),
}


def get_config(name: str, **overrides: object) -> Config:
    """A published size by name, e.g. `get_config("finch-1.6b", dtype="bfloat16")`."""
    if name not in SIZES:
        raise ValueError(f"unknown size {name!r}, expected one of {', '.join(SIZES)}")
    return dataclasses.replace(SIZES[name], **overrides)  # type: ignore[arg-type]
