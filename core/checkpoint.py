# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: asynchronous, atomic, independent of the mesh. The only file that imports orbax.

A checkpoint of a step holds three items: `params` (alone, so that it can be loaded without the
optimiser), `train` (optimiser state, carry, EMA, step) and `meta` (JSON: configuration, versions,
running means). A save writes a temporary directory that is renamed when complete, so a killed
process leaves either the whole checkpoint or none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath

from core import config as config_lib
from core import params as params_lib

PyTree = Any


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says what to do."""


def _with_shardings(tree: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Orbax warns that a directory opened for reading is opened for reading."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


class Checkpointer:
    """Saves and restores the state of a run under one directory."""

    def __init__(
        self,
        directory: str | pathlib.Path,
        keep: int = 3,
        asynchronous: bool = True,
        read_only: bool = False,
    ):
        """Opens (and creates) the directory.

        Args:
          directory: where checkpoints lie, one folder for each step.
          keep: number of newest checkpoints to keep; 0 keeps all.
          asynchronous: return from `save` before the files are written.
          read_only: change nothing; needed beside a running training, whose unfinished saves a
            writer would clear away.
        """
        # A relative path would fail in the background thread, after `save` has returned.
        self.directory = epath.Path(directory).expanduser().resolve()
        try:
            with _no_warnings() if read_only else contextlib.nullcontext():
                self._manager = self._open(keep, asynchronous, read_only)
        except OSError as error:
            raise CheckpointError(
                f"cannot open checkpoint directory {self.directory}: {error}"
            ) from error

    def _open(self, keep: int, asynchronous: bool, read_only: bool) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep or None,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=asynchronous and not read_only,
        )
        return ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers={
                "params": ocp.StandardCheckpointHandler(),
                "train": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None when there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, params: PyTree, train: PyTree, meta: Mapping[str, Any]) -> None:
        """Starts saving (asynchronously by default); raises if the previous save failed."""
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            train=ocp.args.StandardSave(train),
            meta=ocp.args.JsonSave(config_lib.to_dict(meta)),
        )
        try:
            saved = self._manager.save(step, args=args, force=True)
        except Exception as error:  # whatever the storage layer raises
            raise self._failure(step, error) from error
        if not saved:
            raise CheckpointError(
                f"{self.directory} already holds step {step} or a later one {self.steps()};"
                " choose another workdir, or resume from it"
            )

    def wait(self) -> None:
        """Blocks until everything is on disk; raises CheckpointError if a save failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:  # whatever the storage layer raises
            raise self._failure(None, error) from error

    def _failure(self, step: int | None, error: Exception) -> CheckpointError:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        text = str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
            words in text for words in ("No space left", "quota exceeded", "File too large")
        )
        reason = "the disk is full" if full else f"{type(error).__name__}: {text[:500]}"
        advice = "make room, then start" if full else "mend this, then start"
        return CheckpointError(
            f"could not save {what} in {self.directory}: {reason}. The newest complete checkpoint"
            f" is step {self.latest_step()}; {advice} the same command again"
        )

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON item of a checkpoint."""
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            )
        except Exception as error:
            raise self._unreadable(step, error) from error
        return restored["meta"]

    def restore(
        self, step: int, params: PyTree, train: PyTree, shardings: tuple[PyTree, PyTree]
    ) -> tuple[PyTree, PyTree]:
        """Restores onto the given shardings, whatever mesh the checkpoint was saved from.

        Args:
          step: which checkpoint.
          params, train: abstract trees (shapes and dtypes) of the two items.
          shardings: trees of shardings for the two items.
        """
        args = ocp.args.Composite(
            params=ocp.args.StandardRestore(_with_shardings(params, shardings[0])),
            train=ocp.args.StandardRestore(_with_shardings(train, shardings[1])),
        )
        try:
            restored = self._manager.restore(step, args=args)
        except Exception as error:
            raise self._unreadable(step, error) from error
        return restored["params"], restored["train"]

    def restore_params(self, step: int) -> PyTree:
        """The parameters of a checkpoint alone, on the first local device."""
        try:
            target = _abstract_on_host(self._manager.item_metadata(step)["params"])
            restored = self._manager.restore(
                step, args=ocp.args.Composite(params=ocp.args.StandardRestore(target))
            )
        except Exception as error:
            raise self._unreadable(step, error) from error
        return restored["params"]

    def _unreadable(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"cannot read step {step} in {self.directory} (complete steps: {self.steps()}):"
            f" {type(error).__name__}: {str(error)[:800]}"
        )

    def reached_preemption(self, step: int) -> bool:
        """True when the cluster announced that this job will be stopped (agreed by all hosts)."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for saves and releases threads."""
        self.wait()
        self._manager.close()


def find(path: str | os.PathLike[str]) -> tuple[pathlib.Path, int] | None:
    """Finds a checkpoint under a path: a run's workdir, its checkpoints/ or best/, or one step.

    Of a workdir the best parameters (best/) are preferred where they were kept, even if newer ones
    lie in checkpoints/; of several steps in a directory the last is taken.

    Returns:
      (directory of checkpoints, step), or None if the path is not one of ours.
    """
    root = pathlib.Path(path).expanduser().resolve()
    if (root / "params").is_dir() and root.name.isdigit():
        return root.parent, int(root.name)
    for directory in (root / "best", root / "checkpoints", root):
        steps = _complete_steps(directory)
        if steps:
            return directory, max(steps)
    return None


def _complete_steps(directory: pathlib.Path) -> list[int]:
    if not directory.is_dir():
        return []
    return [
        int(entry.name)
        for entry in directory.iterdir()
        if entry.name.isdigit() and (entry / "params").is_dir()
    ]


def load_params(
    path: str | os.PathLike[str], specs: PyTree | None = None, dtype: Any = None
) -> tuple[PyTree, dict[str, Any]]:
    """Loads parameters and metadata from a workdir, a checkpoint directory or one step.

    Args:
      path: see `find`.
      specs: expected specification tree; shapes are checked when given.
      dtype: cast floating-point parameters to this dtype.

    Returns:
      (params as a nested dict of arrays on the default device, metadata dict).
    """
    found = find(path)
    if found is None:
        raise FileNotFoundError(
            f"no checkpoint found at {path}: expected a workdir with checkpoints/, a directory of"
            " steps, or one step"
        )
    directory, step = found
    manager = Checkpointer(directory, keep=0, read_only=True)
    try:
        meta, params = manager.meta(step), manager.restore_params(step)
    finally:
        manager.close()
    if specs is not None:
        params_lib.check(params, specs, what=f"parameters in {directory / str(step)}")
    if dtype is not None:
        params = jax.tree.map(
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, params
        )
    return params, meta


def _abstract_on_host(metadata: Any) -> PyTree:
    """Targets on the first local device, from stored metadata."""
    tree = getattr(metadata, "item_metadata", metadata)
    tree = getattr(tree, "tree", tree)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(tuple(m.shape), np.dtype(m.dtype), sharding=sharding), tree
    )
