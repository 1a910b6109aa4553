# SPDX-License-Identifier: Apache-2.0
"""Where numbers go: a JSON-lines file always, TensorBoard and Weights & Biases if asked.

Only process 0 writes. On resume the JSON-lines file is cut back to the restored step, so that the
file of an interrupted run equals that of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

import numpy as np

from core import files


class MetricWriter(Protocol):
    """Receives scalars, texts and images by step."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes named numbers."""

    def text(self, step: int, name: str, value: str) -> None:
        """Writes a text."""

    def image(self, step: int, name: str, value: np.ndarray) -> None:
        """Writes an image [height, width, 3], uint8."""

    def flush(self) -> None:
        """Makes everything written so far visible."""

    def close(self) -> None:
        """Flushes and releases files."""


class JsonlWriter:
    """One JSON object per line: {"step": ..., "time": ..., name: value, ...}."""

    def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None):
        """Args: path of the file; resume_step: drop lines of later steps (None starts anew)."""
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_step is None else _records_until(self._path, resume_step)
        with files.atomic_write(self._path, "w") as f:
            f.writelines(json.dumps(record) + "\n" for record in kept)
        self._file: TextIO = open(self._path, "a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `MetricWriter.scalars`."""
        record = {"step": step, "time": round(time.time(), 3)}
        self._write({**record, **{k: _jsonable(v) for k, v in values.items()}})

    def text(self, step: int, name: str, value: str) -> None:
        """See `MetricWriter.text`."""
        self._write({"step": step, "time": round(time.time(), 3), f"text/{name}": value})

    def image(self, step: int, name: str, value: np.ndarray) -> None:
        """Images have no place in a text file; nothing is written."""

    def _write(self, record: Mapping[str, Any]) -> None:
        with files.explain_full_disk(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def flush(self) -> None:
        """See `MetricWriter.flush`."""
        with files.explain_full_disk(self._path):
            self._file.flush()

    def close(self) -> None:
        """See `MetricWriter.close`."""
        # Every record was flushed; closing again after a full disk must not hide that error.
        with contextlib.suppress(OSError):
            self._file.close()


def _jsonable(value: Any) -> float | str:
    value = float(value)
    return value if np.isfinite(value) else repr(value)  # JSON has no NaN


def _records_until(path: pathlib.Path, last_step: int) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [r for r in read_jsonl(path) if r.get("step", 0) <= last_step]


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Records of a metrics file; a last line cut off by a crash is ignored."""
    records = []
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number == len(lines) - 1:
                break
            raise ValueError(f"{path}, line {number + 1}: not JSON: {line[:80]!r}") from None
    return records


class TensorBoardWriter:
    """TensorBoard event files through tensorboardX (extra `tb`)."""

    def __init__(self, directory: str | os.PathLike[str], resume_step: int | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard output needs tensorboardX: pip install 'rwkvjax[tb]'"
            ) from error
        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `MetricWriter.scalars`."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def text(self, step: int, name: str, value: str) -> None:
        """See `MetricWriter.text`."""
        self._writer.add_text(name, value, step)

    def image(self, step: int, name: str, value: np.ndarray) -> None:
        """See `MetricWriter.image`."""
        self._writer.add_image(name, value, step, dataformats="HWC")

    def flush(self) -> None:
        """See `MetricWriter.flush`."""
        self._writer.flush()

    def close(self) -> None:
        """See `MetricWriter.close`."""
        self._writer.close()


class WandbWriter:
    """Weights & Biases (extra `wandb`); continues the run whose id is stored in the workdir."""

    def __init__(self, workdir: str | os.PathLike[str], project: str, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise ImportError("W&B output needs wandb: pip install 'rwkvjax[wandb]'") from error
        id_file = pathlib.Path(workdir) / "wandb_run_id.txt"
        run_id = id_file.read_text().strip() if id_file.exists() else None
        self._wandb = wandb
        self._run = wandb.init(
            project=project, id=run_id, resume="allow", dir=str(workdir), config=dict(config)
        )
        with files.atomic_write(id_file, "w") as f:
            f.write(self._run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `MetricWriter.scalars`."""
        self._run.log({k: float(v) for k, v in values.items()}, step=step)

    def text(self, step: int, name: str, value: str) -> None:
        """See `MetricWriter.text`."""
        self._run.log({name: self._wandb.Html(f"<pre>{value}</pre>")}, step=step)

    def image(self, step: int, name: str, value: np.ndarray) -> None:
        """See `MetricWriter.image`."""
        self._run.log({name: self._wandb.Image(value)}, step=step)

    def flush(self) -> None:
        """W&B uploads by itself."""

    def close(self) -> None:
        """See `MetricWriter.close`."""
        self._run.finish()


class FanOut:
    """Passes everything on to several writers (possibly none)."""

    def __init__(self, writers: Sequence[MetricWriter]):
        self._writers = tuple(writers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `MetricWriter.scalars`."""
        for writer in self._writers:
            writer.scalars(step, values)

    def text(self, step: int, name: str, value: str) -> None:
        """See `MetricWriter.text`."""
        for writer in self._writers:
            writer.text(step, name, value)

    def image(self, step: int, name: str, value: np.ndarray) -> None:
        """See `MetricWriter.image`."""
        for writer in self._writers:
            writer.image(step, name, value)

    def flush(self) -> None:
        """See `MetricWriter.flush`."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """See `MetricWriter.close`."""
        for writer in self._writers:
            writer.close()


class Window:
    """Means of metrics over the steps since the last write.

    Its state goes into the checkpoint (JSON keeps float64 exactly), so that the means of a resumed
    run are those of an uninterrupted one, bit for bit.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0):
        self.sums: dict[str, float] = dict(sums or {})
        self.count = count

    def add(self, values: Mapping[str, float]) -> None:
        """Adds the metrics of one step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1

    def take(self) -> dict[str, float]:
        """Returns the means and starts a new window."""
        means = {name: total / max(1, self.count) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """What to store in a checkpoint."""
        return {"sums": dict(self.sums), "count": self.count}
