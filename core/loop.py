# SPDX-License-Identifier: Apache-2.0
"""One training loop for every system in this repository.

A `Task` says what is trained (parameters, loss, evaluation); the loop does everything else:
sharded start-up, donation, accumulation, EMA, logging, checkpoints, resume, preemption.

    for each step n:  next batch -> dispatch step n -> read the metrics of step n-1 -> log
                      -> evaluate, save when due
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from core import checkpoint as checkpoint_lib
from core import config as config_lib
from core import data as data_lib
from core import files, metrics, run_info
from core import params as params_lib
from core import sharding as sharding_lib
from core.progress import Progress
from core.task import Aux, PyTree, Task, TrainConfig
from core.train_step import (
    TrainState,
    frozen_of,
    init_state,
    make_train_step,
    state_shardings,
)

__all__ = ["Task", "TrainConfig", "TrainState", "Trainer", "make_evaluate"]


# --- evaluation -----------------------------------------------------------------------------------


def make_evaluate(
    task: Any, cfg: TrainConfig, mesh: Mesh
) -> Callable[[PyTree], dict[str, float]] | None:
    """Evaluation of parameters over the task's held-out source, or None if it has none."""
    if getattr(task, "eval_source", None) is None:
        return None
    source = data_lib.Once(task.eval_source)
    rules = sharding_lib.get_rules(cfg.sharding)
    size = task.eval_batch_size
    rows = data_lib.local_rows(size, mesh, rules)
    sums_of, frozen = jax.jit(task.eval_sums), frozen_of(task)

    def evaluate(params: PyTree) -> dict[str, float]:
        total: dict[str, Any] = {}
        steps = -(-len(source) // size)
        for batch in data_lib.batches(source, size, 0, steps, rows, transport=cfg.transport):
            placed = data_lib.to_devices(batch, size, rows, mesh, rules)
            sums = sums_of(params, placed, **frozen)
            total = jax.tree.map(jnp.add, total, sums) if total else sums
        values = {k: float(v) for k, v in jax.device_get(total).items()}
        return {f"eval/{k}": float(v) for k, v in task.eval_metrics(values).items()}

    return evaluate


# --- the loop -------------------------------------------------------------------------------------


class Trainer:
    """A run: built once, then `run()`."""

    def __init__(
        self,
        task: Task,
        tx: optax.GradientTransformation,
        source: data_lib.Source,
        cfg: TrainConfig,
        workdir: str | os.PathLike[str],
        *,
        run_config: Mapping[str, Any] | None = None,
        init_params: PyTree | None = None,
        report: Callable[[str], None] | None = None,
    ):
        """Prepares a run; compiles nothing yet.

        Args:
          task: what is trained.
          tx: optimiser.
          source: training examples by global index.
          cfg: settings of the loop.
          workdir: where checkpoints and metrics of this run lie; a run found there is resumed.
          run_config: full configuration, stored with each checkpoint; its "model" block must
            agree with that of a run that is resumed.
          init_params: start from these parameters instead of random ones.
          report: receives progress lines; standard error by default, on process 0 only.
        """
        self.task, self.tx, self.source, self.cfg = task, tx, source, cfg
        self.workdir = pathlib.Path(workdir).expanduser().resolve()
        self.run_config = config_lib.to_dict(run_config or {})
        self.mesh = sharding_lib.make_mesh(dict(cfg.mesh))
        self.rules = sharding_lib.get_rules(cfg.sharding)
        sharding_lib.check_mesh(self.mesh, cfg.sharding)
        self.specs = task.param_specs()
        self._frozen = frozen_of(task)
        if init_params is not None:
            params_lib.check(init_params, self.specs, what="initial parameters")
        self._init_params = init_params
        self._report = report or _print_on_main_process
        self._stop = threading.Event()
        self._profiling = False
        self.evaluate = make_evaluate(task, cfg, self.mesh)
        # Arguments, not a closure: parameters captured by jit would become compiled constants.
        self._init = lambda params: init_state(task, tx, cfg, params)
        self._abstract = jax.eval_shape(self._init, init_params)
        self.shardings = state_shardings(task, self._abstract, self.mesh, self.rules)
        self.train_step = jax.jit(
            make_train_step(task, tx, cfg),
            donate_argnums=0,
            out_shardings=(self.shardings, sharding_lib.replicated(self.mesh)),
        )

    # -- start-up

    def start(self, saver: checkpoint_lib.Checkpointer) -> tuple[TrainState, dict[str, Any]]:
        """Restores the newest checkpoint of this workdir, or initialises."""
        latest = saver.latest_step()
        if latest is None:
            state = jax.jit(self._init, out_shardings=self.shardings)(self._init_params)
            # Buffers of the optimiser's zeros (or of the EMA) may be shared; donation needs them
            # to be distinct.
            return jax.tree.map(jnp.copy, state), {}
        meta = saver.meta(latest)
        self._check_same_model(meta.get("config", {}), latest)
        params, rest = self._abstract.split()
        shard_params, shard_rest = self.shardings.split()
        restored = saver.restore(latest, params, rest, (shard_params, shard_rest))
        self._report(f"resumed from step {latest} in {self.workdir}")
        return self._abstract.merge(*restored), meta

    def _check_same_model(self, stored: Mapping[str, Any], step: int) -> None:
        # A setting that came after this run began does not keep it from going on; it is named.
        model, before = self.run_config.get("model"), stored.get("model")
        changed = config_lib.differences(before, config_lib.known_to(before, model), "model")
        if changed:
            raise checkpoint_lib.CheckpointError(
                f"{self.workdir} holds step {step} of another model: {'; '.join(changed)}. Use"
                " another --workdir, or the configuration of that run"
            )
        if added := config_lib.differences(before, model, "model"):
            self._report("note: model settings that this run did not have: " + "; ".join(added))
        old, new = ({**config, "model": None} for config in (stored, self.run_config))
        if others := config_lib.differences(old, new):
            self._report("note: changed since this run began: " + "; ".join(others))

    # -- the run

    def run(self) -> TrainState:
        """Trains to the last step, or until the task has enough; returns the final state.

        Started again, a run that ended in either way stays as it is.
        """
        with contextlib.ExitStack() as stack:
            if jax.process_index() == 0:
                self.workdir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(files.exclusive_lock(self.workdir / "lock"))
            saver = checkpoint_lib.Checkpointer(self.workdir / "checkpoints", self.cfg.keep)
            stack.callback(saver.close)
            state, meta = self.start(saver)
            if jax.process_index() == 0:
                run_info.write(self.workdir, self.run_config)
            first = int(state.step)
            window = metrics.Window(**meta.get("window", {}))
            writer = self._writers(first if meta else None)
            stack.callback(writer.close)
            previous = _on_termination(self._stop)
            stack.callback(_restore_handler, previous)
            stack.callback(self._end_profile)
            if not meta.get("ended"):
                state = self._steps(state, first, window, writer, saver)
            saver.wait()
        return state

    def _writers(self, resume_step: int | None) -> metrics.FanOut:
        if jax.process_index() != 0:
            return metrics.FanOut([])
        cfg, logs = self.cfg, self.workdir
        writers: list[metrics.MetricWriter] = [
            metrics.JsonlWriter(logs / "metrics.jsonl", resume_step)
        ]
        if cfg.tensorboard:
            writers.append(metrics.TensorBoardWriter(logs / "tensorboard", resume_step))
        if cfg.wandb_project:
            writers.append(metrics.WandbWriter(logs, cfg.wandb_project, self.run_config))
        return metrics.FanOut(writers)

    def _steps(
        self,
        state: TrainState,
        first: int,
        window: metrics.Window,
        writer: metrics.FanOut,
        saver: checkpoint_lib.Checkpointer,
    ) -> TrainState:
        cfg = self.cfg
        rows = data_lib.local_rows(cfg.batch_size, self.mesh, self.rules)
        batches = data_lib.batches(
            self.source, cfg.batch_size, first, cfg.steps, rows, transport=cfg.transport
        )
        progress = Progress(self.task, cfg, first, self._report)
        pending: tuple[int, Aux] | None = None

        def read_pending() -> None:
            nonlocal pending
            if pending is not None:
                self._read(*pending, window, writer, progress)
                pending = None

        for step, batch in zip(range(first, cfg.steps), batches, strict=False):
            self._profile(step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                placed = data_lib.to_devices(batch, cfg.batch_size, rows, self.mesh, self.rules)
                state, values = self.train_step(state, placed, **self._frozen)
            read_pending()
            pending = (step + 1, values)
            done = step + 1
            last = done == cfg.steps
            stopping = self._stop.is_set() or saver.reached_preemption(done)
            if self._due(done, cfg.eval_every) or (last and self.evaluate):
                read_pending()
                last |= self._evaluate(done, state, writer, progress, saver)
            if self._due(done, cfg.save_every) or last or stopping:
                # Never save after a step whose loss or gradient was not finite.
                read_pending()
                ended = last and done < cfg.steps
                saver.save(done, *state.split(), {**self._meta(done, window), "ended": ended})
            if stopping and not last:
                saver.wait()
                self._report(f"stopped on request after step {done}; start again to go on")
                raise SystemExit(0)
            if last:
                break
        read_pending()
        return state

    @staticmethod
    def _due(step: int, period: int) -> bool:
        return period > 0 and step % period == 0

    def _read(
        self,
        step: int,
        values: Aux,
        window: metrics.Window,
        writer: metrics.FanOut,
        progress: Progress,
    ) -> None:
        numbers = {k: float(v) for k, v in jax.device_get(values).items() if np.ndim(v) == 0}
        finite = np.isfinite(numbers["loss"]) and np.isfinite(numbers["grad_norm"])
        if self.cfg.nan_guard and not finite:
            writer.scalars(step, numbers)
            writer.flush()
            raise FloatingPointError(
                f"loss {numbers['loss']} or gradient norm {numbers['grad_norm']} is not finite at"
                f" step {step}; the last saved checkpoint in {self.workdir}/checkpoints is from"
                " before this step. Lower the learning rate or look at the data of this step"
            )
        progress.first_step_done(step)
        window.add(numbers)
        if step % self.cfg.log_every == 0 or step == self.cfg.steps:
            means = window.take()
            writer.scalars(step, {**means, **progress.rates(step)})
            progress.line(step, means)

    def _evaluate(
        self,
        step: int,
        state: TrainState,
        writer: metrics.FanOut,
        progress: Progress,
        saver: checkpoint_lib.Checkpointer,
    ) -> bool:
        """Evaluates and writes the values down; True where the task has had enough."""
        if self.evaluate is None:
            return False
        with progress.paused():
            params = state.ema if self.cfg.ema else state.params
            values = self.evaluate(params)
            writer.scalars(step, values)
            self._report(f"step {step}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))
            # Saves of several processes meet at barriers: two of them must not overlap.
            saver.wait()
            self._keep_best(step, state, params, values)
        enough = getattr(self.task, "enough", None)
        return enough is not None and enough(values)

    def _keep_best(
        self, step: int, state: TrainState, params: PyTree, values: Mapping[str, float]
    ) -> None:
        name = self.cfg.best_metric
        if not name:
            return
        if name not in values:
            raise ValueError(f"best_metric {name!r} is not among the metrics {sorted(values)}")
        if not math.isfinite(values[name]):
            return
        saver = checkpoint_lib.Checkpointer(self.workdir / "best", 1, asynchronous=False)
        try:
            latest = saver.latest_step()
            if latest is not None:
                best = float(saver.meta(latest)["metrics"][name])
                better = values[name] < best if self.cfg.best_mode == "min" else values[name] > best
                if latest >= step or not better:
                    return
            saver.save(step, params, {"step": state.step}, self._meta(step, None, values))
        finally:
            saver.close()

    def _meta(
        self,
        step: int,
        window: metrics.Window | None,
        values: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        return {
            "step": step,
            "config": self.run_config,
            "window": window.state() if window else {},
            "metrics": dict(values or {}),
            "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
        }

    def _profile(self, step: int) -> None:
        first, count = self.cfg.profile_first, self.cfg.profile_steps
        inside = first <= step < first + count
        if inside and not self._profiling:
            jax.profiler.start_trace(str(self.workdir / "profile"))
            self._profiling = True
        elif not inside:
            self._end_profile()

    def _end_profile(self) -> None:
        if self._profiling:
            self._profiling = False
            jax.profiler.stop_trace()
            self._report(f"profile written to {self.workdir / 'profile'}")


def _print_on_main_process(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def _on_termination(stop: threading.Event) -> Any:
    """SIGTERM asks the loop to save and exit; returns the handler to restore."""
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        return None  # several hosts agree through the checkpoint manager instead
    return signal.signal(signal.SIGTERM, lambda *_: stop.set())


def _restore_handler(previous: Any) -> None:
    if previous is not None:
        signal.signal(signal.SIGTERM, previous)
