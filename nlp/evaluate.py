# SPDX-License-Identifier: Apache-2.0
"""Evaluates language models on the tasks of a configuration; started again, it resumes.

python -m nlp.evaluate --config=configs/nlp/endpoint.py --workdir=runs/evaluation

--dry_run shows what would be asked and cost. --report_only makes tables and figures again from
results.json. --compare=DIR,DIR compares finished runs with paired tests.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from core import cli, config, files
from nlp.evaluation import compare, pipeline, redaction, report, runner
from nlp.evaluation.backends.base import Backend, Refused
from nlp.evaluation.cache import Cache
from nlp.evaluation.config import Evaluation

_FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file(
    "config", None, "Configuration, e.g. configs/nlp/endpoint.py.", _FLAGS, lock_config=True
)
flags.DEFINE_string("workdir", None, "Folder of this run.", flag_values=_FLAGS)
flags.DEFINE_bool(
    "dry_run", False, "Count and price the requests; send nothing.", flag_values=_FLAGS
)
flags.DEFINE_bool("report_only", False, "Only make the report again.", flag_values=_FLAGS)
flags.DEFINE_list("compare", [], "Folders of finished runs to compare.", flag_values=_FLAGS)

STOPPED = 3  # exit status of a run that ended early and can be resumed


def main(values: flags.FlagValues) -> None:
    """Runs what the flags ask for."""
    if not values.workdir:
        raise flags.Error("--workdir is required")
    if values.report_only:
        with cli.explain():
            print(report.write(values.workdir))
        return
    if not values.config:
        raise flags.Error("--config is required, for instance configs/nlp/endpoint.py")
    cfg = config.build(Evaluation, values.config)
    if values.compare:
        with cli.explain():
            _compare(cfg, values.compare, values.workdir)
        return
    redact = redaction.Redactor()
    try:
        redact = redaction.Redactor(pipeline.secrets_of(cfg))
        redaction.guard_logging(redact)
        stopped = (
            _dry_run(cfg, values.workdir) if values.dry_run else _evaluate(cfg, values.workdir)
        )
    except (ValueError, Refused, ImportError, FileNotFoundError, files.FileInUseError) as error:
        raise cli.UserError(redact(str(error))) from None
    except Exception:
        print(redact(traceback.format_exc()), file=sys.stderr)
        sys.exit(1)
    if stopped:
        print(f"stopped: {redact(stopped)}; the same command resumes", file=sys.stderr)
        sys.exit(STOPPED)


def _dry_run(cfg: Evaluation, workdir: str) -> str:
    for name, guess in pipeline.dry_run(cfg, workdir).items():
        print(
            f"{name}: {guess.requests} requests ({guess.cached} stored or repeated),"
            f" about {guess.prompt_tokens} + {guess.completion_tokens} tokens,"
            f" about {guess.cost:.4f}, at most {guess.highest:.4f}"
        )
    return ""


def _evaluate(cfg: Evaluation, workdir: str) -> str:
    """Asks, scores and reports; returns why the run stopped early, if it did."""
    Path(workdir).mkdir(parents=True, exist_ok=True)
    variants = pipeline.plan(cfg)
    backends = {model.name: pipeline.make_backend(model) for model in cfg.models}
    statistics: dict[str, Any] = {}
    stopped = ""
    with Cache(pipeline.cache_path(cfg, workdir)) as cache:
        for model in cfg.models:
            done = _ask(model, backends[model.name], variants, cache)
            statistics[model.name] = done.to_dict()
            stopped = stopped or (f"{model.name}: {done.stopped}" if done.stopped else "")
        with files.atomic_write(Path(workdir) / "run.json", "w") as out:
            json.dump(statistics, out, indent=1)
        pipeline.score_all(cfg, variants, backends, cache, workdir)
    print(report.write(workdir))
    return stopped


def _ask(model: Any, backend: Backend, variants: Any, cache: Cache) -> runner.RunStats:
    """One model's questions, with a progress bar; Ctrl-C waits for the answers under way."""
    from tqdm import tqdm

    total = sum(len(variant.items) for variant in variants)

    async def work() -> runner.RunStats:
        loop = asyncio.get_running_loop()

        def on_start(work: runner.Runner) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, work.stop, signal.Signals(number).name)

        with tqdm(total=total, desc=model.name, mininterval=1.0, file=sys.stderr) as bar:

            def progress(stats: runner.RunStats) -> None:
                bar.n = stats.cached + stats.answered + stats.failed
                bar.set_postfix(failed=stats.failed, retries=stats.retries, refresh=False)
                bar.update(0)

            try:
                return await pipeline.ask(model, backend, variants, cache, progress, on_start)
            finally:
                await backend.close()

    return asyncio.run(work())


def _compare(cfg: Evaluation, workdirs: list[str], workdir: str) -> None:
    found = compare.runs(cfg, workdirs)
    Path(workdir).mkdir(parents=True, exist_ok=True)
    with files.atomic_write(Path(workdir) / "comparison.json", "w") as out:
        json.dump(found, out, indent=1)
    print(report.comparison_table(found))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
