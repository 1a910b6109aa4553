# SPDX-License-Identifier: Apache-2.0
"""Progress lines of a long job over a known number of bytes."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Logs a line every few seconds and tells when to save."""

    def __init__(
        self,
        log: Callable[[str], None],
        total: int,
        checkpoint_seconds: float,
        action: str = "tokenised",
        log_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Keeps the settings; the clock starts with the first `update`, after all start-up.

        Args:
          log: gets the lines.
          total: bytes of the whole job.
          checkpoint_seconds: time between two savings.
          action: verb of the lines.
          log_seconds: time between two lines.
          clock: seconds.
        """
        self._log, self._clock, self._action = log, clock, action
        self._total, self._first = total, 0
        self._started = False
        self._intervals = (log_seconds, checkpoint_seconds)
        self._start = self._logged = self._saved = clock()
        self._processed = 0

    def update(self, documents: int, tokens: int, processed: int, done: int) -> None:
        """Notes work and logs if it is time.

        Args:
          documents, tokens: in the output so far.
          processed: bytes of text worked on since the last call.
          done: bytes of the whole job so far.
        """
        now = self._clock()
        if not self._started:
            self._started, self._start, self._logged, self._first = True, now, now, done
            return
        self._processed += processed
        if now - self._logged < self._intervals[0]:
            return
        self._logged = now
        elapsed = now - self._start
        rate = self._processed / 1e6 / elapsed
        line = (
            f"{self._action} {documents:,} documents, {tokens:,} tokens, {rate:.2f} MB/s, "
            f"{done / max(self._total, 1):.1%}"
        )
        if done > self._first:
            left = elapsed * (self._total - done) / (done - self._first)
            line += f", {format_seconds(left)} left"
        self._log(line)

    def checkpoint_due(self) -> bool:
        """Whether it is time to save; starts the next interval if so."""
        now = self._clock()
        if now - self._saved < self._intervals[1]:
            return False
        self._saved = now
        return True


def format_seconds(seconds: float) -> str:
    """For instance 8 s, 2 min 05 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
