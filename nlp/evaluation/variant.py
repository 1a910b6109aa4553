# SPDX-License-Identifier: Apache-2.0
"""One task as it is asked: its items and a number of personal examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from nlp.evaluation import fewshot, tasks
from nlp.evaluation.records import Item, Request
from nlp.evaluation.tasks import Task


@dataclasses.dataclass(frozen=True)
class Variant:
    """A task with a number of personal examples; `items` are the same for all numbers of a task."""

    task: Task
    shots: int
    items: tuple[Item, ...]
    train: tuple[Item, ...]
    pool: fewshot.Pool | None = None

    @property
    def id(self) -> str:
        return f"{self.task.id}@{self.shots}" if self.task.personal else self.task.id

    def requests(self) -> Iterator[Request]:
        """One request for each item, made when it is needed."""
        for item in self.items:
            examples = self.pool.examples(item, self.shots) if self.pool and self.shots else ()
            yield tasks.request(self.task, item, examples)
