# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a long run: rates, utilisation, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from core import hardware


class Progress:
    """Rates and the progress line: loss, units per second, utilisation, time left."""

    def __init__(self, task: Any, cfg: Any, first: int, report: Callable[[str], None]):
        self._cfg, self._report = cfg, report
        self._unit: str
        self._unit, per_example = getattr(task, "units", ("examples", 1))
        self._units_per_step = per_example * cfg.batch_size
        flops = getattr(task, "flops_per_step", None)
        self._flops = flops(cfg.batch_size) if flops else None
        peak = hardware.peak_flops() if flops and jax.process_index() == 0 else None
        self._peak = peak * jax.device_count() if peak else None
        # The first step compiles; rates count from its end (`first_step_done`).
        self._mark: tuple[int, float] = (first, time.perf_counter())
        self._first = first
        self._rate = 0.0

    def first_step_done(self, step: int) -> None:
        """Starts the clock after the first step of this process."""
        if step == self._first + 1:
            self._mark = (step, time.perf_counter())

    def rates(self, step: int) -> dict[str, float]:
        """Measured rates since the last call."""
        mark_step, mark_time = self._mark
        now = time.perf_counter()
        self._mark = (step, now)
        if step <= mark_step:
            return {}
        self._rate = (step - mark_step) / max(now - mark_time, 1e-9)
        rates = {
            "steps_per_s": self._rate,
            f"{self._unit}_per_s": self._rate * self._units_per_step,
        }
        if self._flops and self._peak:
            rates["mfu"] = self._flops * self._rate / self._peak
        return rates

    def line(self, step: int, means: Mapping[str, float]) -> None:
        """Reports one line."""
        cfg = self._cfg
        parts = [f"step {step}/{cfg.steps}", f"loss {means['loss']:.4f}"]
        parts += [f"{k} {v:.4g}" for k, v in means.items() if k not in ("loss", "weight")]
        if self._rate:
            parts.append(f"{_si(self._rate * self._units_per_step)} {self._unit}/s")
            if self._flops and self._peak:
                parts.append(f"mfu {100 * self._flops * self._rate / self._peak:.1f}%")
            parts.append(f"eta {_duration((cfg.steps - step) / self._rate)}")
        self._report("  ".join(parts))

    def paused(self) -> _Pause:
        """A context whose duration does not count in the rates."""
        return _Pause(self)


class _Pause:
    def __init__(self, progress: Progress):
        self._progress = progress

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        step, mark = self._progress._mark
        self._progress._mark = (step, mark + time.perf_counter() - self._start)


def _si(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{suffix}"
    return f"{value:.1f}"


def _duration(seconds: float) -> str:
    seconds = int(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds % 60:02d}s"
