# SPDX-License-Identifier: Apache-2.0
"""The `finetune` block of a configuration."""

from __future__ import annotations

import dataclasses

METHODS = ("", "full", "lora", "pissa", "state")
_PARTS = ("att", "ffn")


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """From which model, and what of it is trained.

    Attributes:
      method: "" trains from scratch; "full" trains all parameters of the base; "lora" and "pissa"
        low-rank changes of its projections; "state" its initial state alone.
      base: a run, a checkpoint, or weights of any known format.
      rank: of the low-rank changes (official default 32).
      alpha: LoRA's products are multiplied by alpha / rank; without effect for PiSSA.
      parts: whose projections get low-rank changes: "att" (time mixing), "ffn" (channel mixing).
      train_parts: besides them, parameters with one of these in their name are trained in full, as
        in the official tools: "time" and "ln". RWKV-7 names nothing "time".
      svd_iterations: of PiSSA's approximate decomposition; 0 computes the exact one.
      quantize: bits of the frozen projections, 8 or 4; 0 keeps them. Not for "full" and "pissa".
      quantize_group: inputs that share a scale; 0: one scale for each output channel.
      base_dtype: store the frozen base in this dtype, e.g. "bfloat16"; "" keeps that of the file.
    """

    method: str = ""
    base: str = ""
    rank: int = 32
    alpha: float = 32.0
    parts: tuple[str, ...] = _PARTS
    train_parts: tuple[str, ...] = ("time", "ln")
    svd_iterations: int = 0
    quantize: int = 0
    quantize_group: int = 0
    base_dtype: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")
        if self.rank < 1 or self.alpha <= 0 or self.svd_iterations < 0:
            raise ValueError(
                f"expected rank >= 1, alpha > 0, svd_iterations >= 0, got {self.rank=}"
                f" {self.alpha=} {self.svd_iterations=}"
            )
        if set(self.parts) - set(_PARTS) or not self.parts:
            raise ValueError(f"parts must be some of {_PARTS}, got {self.parts}")
        if self.quantize not in (0, 4, 8):
            raise ValueError(f"quantize must be 0, 4 or 8, got {self.quantize}")
        if self.quantize and self.method in ("full", "pissa"):
            raise ValueError(f"a quantised base cannot be trained by {self.method!r}")
        if self.method == "full" and self.base_dtype not in ("", "float32"):
            raise ValueError("full training keeps the parameters in float32")
        if self.base and not self.method:
            raise ValueError(f"base {self.base!r} needs a method, one of {METHODS[1:]}")

    @property
    def has_adapter(self) -> bool:
        """True if the base stays frozen and an adapter is what is trained."""
        return self.method in ("lora", "pissa", "state")

    @property
    def scale(self) -> float:
        """Factor of the low-rank products."""
        return self.alpha / self.rank if self.method == "lora" else 1.0
