# SPDX-License-Identifier: Apache-2.0
"""What the runner needs of a model, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from nlp.evaluation.records import Request, Response


class Retryable(Exception):
    """A failure that may pass: busy, timed out, cut off. The request is asked again.

    Attributes:
      retry_after: seconds the endpoint asked to wait, or None.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


class Refused(Exception):
    """A failure that no request will survive: wrong key, unknown model, no credit. Ends the run."""


class Backend(Protocol):
    """Answers requests.

    Attributes:
      identity: what decides the answer besides the messages (kind, model, parameters); part of the
        cache key. It must not hold secrets.
      batch_size: most requests a call of `answer` takes.
      max_completion: most tokens an answer can have.
    """

    identity: Mapping[str, Any]
    batch_size: int
    max_completion: int

    async def answer(self, requests: Sequence[Request]) -> list[Response]:
        """One response for each request, in order.

        Raises:
          Retryable, Refused: see there.
        """
        ...

    async def close(self) -> None:
        """Frees connections and memory."""
        ...
