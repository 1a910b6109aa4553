# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of a server, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rwkvjax.serving.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts requests as they end and copies the engine's numbers after every step."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "rwkvjax_requests",
            "HTTP requests by path and status.",
            ["path", "status"],
            registry=registry,
        )
        self._finished = Counter(
            "rwkvjax_sequences", "Finished sequences by reason.", ["finish"], registry=registry
        )
        self._first = Histogram(
            "rwkvjax_time_to_first_token_seconds",
            "From the arrival of a request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._duration = Histogram(
            "rwkvjax_sequence_seconds",
            "From the arrival of a sequence to its end.",
            buckets=_SECONDS,
            registry=registry,
        )
        names = {
            "running": "Sequences in slots.",
            "waiting": "Sequences without a slot.",
            "slots": "Slots.",
            "cache_bytes": "Bytes in the prefix cache.",
            "cache_entries": "Entries of the prefix cache.",
            "state_bytes": "Bytes of the slots.",
        }
        self._gauges = {
            n: Gauge(f"rwkvjax_{n}", text, registry=registry) for n, text in names.items()
        }
        totals = {
            "steps": "Steps of the engine.",
            "prompt_tokens": "Tokens of prompts.",
            "cached_tokens": "Tokens of prompts that came from the prefix cache.",
            "drawn_tokens": "Tokens drawn.",
            "cache_hits": "Prompts with a cached beginning.",
            "cache_evictions": "Entries that had to leave the prefix cache.",
        }
        self._totals = {
            n: Counter(f"rwkvjax_{n}", text, registry=registry) for n, text in totals.items()
        }
        self._last = dict.fromkeys(totals, 0)

    def request(self, path: str, status: int) -> None:
        """A request was answered (`path` of the interface, not of the client's choice)."""
        self._requests.labels(path, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def finished(self, finish: str, seconds: float) -> None:
        self._finished.labels(finish).inc()
        self._duration.observe(seconds)

    def observe(self, engine: Engine) -> None:
        """Copies the engine's numbers; called by its thread."""
        values = {
            "running": engine.running,
            "waiting": engine.waiting,
            "slots": engine.limits.slots,
            "cache_bytes": engine.cache.nbytes,
            "cache_entries": len(engine.cache),
            "state_bytes": engine.state_bytes,
        }
        for name, value in values.items():
            self._gauges[name].set(value)
        for name, before in self._last.items():
            now = getattr(engine.stats, name)
            if now > before:
                self._totals[name].inc(now - before)
                self._last[name] = now

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
