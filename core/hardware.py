# SPDX-License-Identifier: Apache-2.0
"""What the devices can do at best, to put measured rates in proportion."""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp

# Dense bfloat16 peak of one device in FLOP/s, from the vendors' data sheets. Substrings of
# `device_kind`, most specific first.
_PEAK_BF16 = (
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("NVIDIA L4", 121e12),
    ("RTX 4090", 165e12),
    ("T4", 65e12),
    ("TPU v6", 918e12),
    ("TPU v5p", 459e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 123e12),
)


def peak_flops(device: jax.Device | None = None) -> float | None:
    """Peak FLOP/s of one device: the data sheet's figure, or measured once on a CPU.

    Returns:
      FLOP/s, or None for an accelerator that is not in the table.
    """
    device = jax.devices()[0] if device is None else device
    for name, peak in _PEAK_BF16:
        if name in device.device_kind:
            return peak
    if device.platform == "cpu":
        return _measured_cpu_flops() / jax.local_device_count()
    return None


@functools.cache
def cpu_has_bfloat16_units() -> bool:
    """Whether this host multiplies bfloat16 matrices in hardware (AMX; known on Linux only)."""
    try:
        with open("/proc/cpuinfo") as file:
            return any("amx_bf16" in line for line in file if line.startswith("flags"))
    except OSError:
        return False


@functools.cache
def _measured_cpu_flops(size: int = 1024, repeats: int = 3) -> float:
    """Best rate of a float32 matrix product on the whole host, FLOP/s."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
