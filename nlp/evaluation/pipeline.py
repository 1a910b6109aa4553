# SPDX-License-Identifier: Apache-2.0
"""The whole of an evaluation: plan, ask, read the answers back, score, write the results.

Answers live in the cache only. Results are read back from it in the order of the items, so a run
that was killed and started again writes the same bytes as one that was not.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core import config as config_lib
from core import files
from nlp.evaluation import compare, fewshot, loaders, redaction, runner, scoring, tasks
from nlp.evaluation.backends import baselines, replay
from nlp.evaluation.backends.base import Backend
from nlp.evaluation.cache import Cache
from nlp.evaluation.config import Evaluation, Model
from nlp.evaluation.records import Item, Request, Response, canonical, digest
from nlp.evaluation.scoring import Answer
from nlp.evaluation.tasks import Task
from nlp.evaluation.variant import Variant

SCHEMA_VERSION = 1


def plan(cfg: Evaluation) -> list[Variant]:
    """Loads tasks and data.

    Raises:
      ValueError: an unknown task. FileNotFoundError: the data of a task named by its id, or of
      one with a folder of its own, are absent.
    """
    known = tasks.catalogue(cfg.task_files)
    folders = dict(cfg.data)
    if unknown := sorted(set(folders) - set(known)):
        raise ValueError(f"data names unknown tasks {unknown}; known: {', '.join(sorted(known))}")
    variants: list[Variant] = []
    for task, needed in _chosen(cfg, known):
        try:
            corpus = loaders.load(task, folders.get(task.id, ""))
        except FileNotFoundError:
            if needed or task.id in folders:
                raise
            continue
        variants += _variants(cfg, task, corpus)
    if not variants:
        raise FileNotFoundError("none of the tasks has its data on this machine")
    return variants


def _chosen(cfg: Evaluation, known: dict[str, Task]) -> list[tuple[Task, bool]]:
    """(task, whether its data must be there)."""
    chosen: dict[str, tuple[Task, bool]] = {}
    for name in cfg.tasks:
        if name in ("study", "available"):
            group = tasks.study(known.values()) if name == "study" else known.values()
            for task in group:
                chosen.setdefault(task.id, (task, False))
        elif name in known:
            chosen[name] = (known[name], True)
        else:
            raise ValueError(f"unknown task {name!r}; known: {', '.join(sorted(known))}")
    return list(chosen.values())


def _variants(cfg: Evaluation, task: Task, corpus: loaders.Corpus) -> list[Variant]:
    shots = (cfg.shots or task.shots) if task.personal else (0,)
    if not task.personal_prompt:
        shots = (0,)
    pool, items = None, list(corpus.test)
    if task.personal and max(shots) > 0:
        selection = cfg.selection or task.selection
        pool = fewshot.Pool(corpus.train, task.labels, selection, cfg.seed)
        items = fewshot.common_subset(items, pool, shots)
    items = loaders.few(items, cfg.limit)
    return [Variant(task, n, tuple(items), corpus.train, pool) for n in shots]


# --- asking --------------------------------------------------------------------------------------


def make_backend(model: Model) -> Backend:
    """The backend that a configuration describes.

    Raises:
      ValueError, FileNotFoundError, ImportError: it cannot be made; keys are never in the message.
    """
    if model.backend == "replay":
        return replay.ReplayBackend(model.path)
    if model.backend == "rwkv":
        from nlp import rwkv_models

        names = {f.name for f in dataclasses.fields(rwkv_models.Options)}
        values = {k: v for k, v in dataclasses.asdict(model).items() if k in names}
        if not model.stop:
            values.pop("stop")
        options = rwkv_models.Options(**values)
        return rwkv_models.load(model.path, model.tokenizer, options)
    from nlp.evaluation.backends import openai_api

    names = {f.name for f in dataclasses.fields(openai_api.Endpoint)}
    values = {k: v for k, v in dataclasses.asdict(model).items() if k in names}
    key = redaction.read_key(model.api_key_env)
    return openai_api.OpenAIBackend(openai_api.Endpoint(**values), key, model.timeout or 600.0)


def secrets_of(cfg: Evaluation) -> list[str]:
    """Values of all keys the configuration names; they must be set."""
    return [redaction.read_key(m.api_key_env) for m in cfg.models if m.api_key_env]


def _all_requests(variants: Sequence[Variant]) -> Iterator[Request]:
    for variant in variants:
        yield from variant.requests()


async def ask(
    model: Model,
    backend: Backend,
    variants: Sequence[Variant],
    cache: Cache,
    progress: Callable[[runner.RunStats], None] = lambda stats: None,
    on_start: Callable[[runner.Runner], None] = lambda work: None,
) -> runner.RunStats:
    """Asks a model everything that is not stored yet."""
    work = runner.Runner(backend, cache, model.settings(), progress)
    on_start(work)
    return await work.run(_all_requests(variants))


def dry_run(cfg: Evaluation, workdir: str) -> dict[str, runner.Estimate]:
    """What every model would be asked and cost; nothing is sent."""
    variants = plan(cfg)
    found = {}
    with Cache(cache_path(cfg, workdir)) as cache:
        for model in cfg.models:
            backend = make_backend(model)
            found[model.name] = runner.estimate(
                _all_requests(variants),
                backend.identity,
                cache,
                model.prices,
                backend.max_completion,
            )
            asyncio.run(backend.close())
    return found


def cache_path(cfg: Evaluation, workdir: str) -> Path:
    """Where answers are stored."""
    return Path(cfg.cache).expanduser() if cfg.cache else Path(workdir) / "cache.sqlite"


# --- reading back and scoring --------------------------------------------------------------------


def answers(
    variant: Variant, identity: Any, cache: Cache
) -> Iterator[tuple[Item, str, Response, Answer]]:
    """Every item with its key, response and parsed answer."""
    for item, request in zip(variant.items, variant.requests(), strict=True):
        key = request.key(identity)
        response = cache.get(key) or cache.failure(key)
        if response is None:
            response = Response(status="error", error="not asked")
        units = None
        if response.status == "ok":
            units = tasks.parse(variant.task, item, response.text)
        yield item, key, response, Answer(item, units, response.status)


def score_all(
    cfg: Evaluation,
    variants: Sequence[Variant],
    backends: dict[str, Backend],
    cache: Cache,
    workdir: str,
) -> dict[str, Any]:
    """Scores all models and baselines; writes records/*.jsonl and results.json."""
    folder = Path(workdir) / "records"
    folder.mkdir(parents=True, exist_ok=True)
    read: dict[str, dict[str, list[Answer]]] = {v.id: {} for v in variants}
    usage: dict[str, dict[str, Any]] = {v.id: {} for v in variants}
    for model in cfg.models:
        with files.atomic_write(folder / f"{model.name}.jsonl", "w") as out:
            for variant in variants:
                used = _Usage(model)
                kept = read[variant.id].setdefault(model.name, [])
                for item, key, response, answer in answers(
                    variant, backends[model.name].identity, cache
                ):
                    kept.append(answer)
                    used.add(response)
                    out.write(
                        canonical(_record(variant, model, item, key, response, answer)) + "\n"
                    )
                usage[variant.id][model.name] = used.to_dict()
    entries = [_entry(cfg, variant, read[variant.id], usage[variant.id]) for variant in variants]
    results = {
        "schema": SCHEMA_VERSION,
        "policy": cfg.policy,
        "resamples": cfg.resamples,
        "seed": cfg.seed,
        "models": [_public(m) for m in cfg.models],
        "tasks": entries,
        "gains": compare.gains(cfg, variants, read),
        "comparisons": compare.pairs(cfg, {v.id: v.task for v in variants}, read),
    }
    with files.atomic_write(Path(workdir) / "results.json", "w") as out:
        json.dump(results, out, indent=1, sort_keys=True, ensure_ascii=False)
    return results


def _public(model: Model) -> dict[str, Any]:
    return config_lib.to_dict(model)


class _Usage:
    """Tokens and money of the stored answers of one task."""

    def __init__(self, model: Model):
        self._prices = model.prices
        self._prompt = self._completion = self._estimated = 0

    def add(self, response: Response) -> None:
        self._prompt += response.prompt_tokens
        self._completion += response.completion_tokens
        self._estimated += response.estimated

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "estimated": self._estimated,
            "cost": str(self._prices.cost(self._prompt, self._completion)),
        }


def _record(
    variant: Variant, model: Model, item: Item, key: str, response: Response, answer: Answer
) -> dict[str, Any]:
    return {
        "task": variant.id,
        "task_hash": variant.task.hash,
        "model": model.name,
        "item": item.id,
        "annotator": item.annotator,
        "text_id": item.text_id,
        "group": item.group,
        "gold": item.gold,
        "key": key,
        "status": response.status,
        "finish": response.finish,
        "error": response.error,
        "text": response.text,
        "scores": response.scores,
        "units": [dataclasses.asdict(u) for u in answer.units or ()],
    }


def _entry(
    cfg: Evaluation, variant: Variant, read: dict[str, list[Answer]], usage: dict[str, Any]
) -> dict[str, Any]:
    """Everything about one task with its number of shots."""
    task = variant.task
    systems = {
        name: {
            "kind": "model",
            **scoring.score(task, own, cfg.policy, cfg.resamples, cfg.seed),
            "policies": {
                policy: scoring.score(task, own, policy, 0)["metrics"] for policy in tasks.POLICIES
            },
            "usage": usage[name],
        }
        for name, own in read.items()
    }
    if variant.shots in (0, _fewest(cfg, variant)):
        for name, own in baseline_answers(cfg, variant).items():
            result = scoring.score(task, own, cfg.policy, cfg.resamples, cfg.seed)
            systems[name] = {"kind": "baseline", **result}
    data = [[i.id, i.annotator, i.gold, dict(i.fields)] for i in variant.items]
    return {
        "id": variant.id,
        "task": task.id,
        "name": task.name + (f" ({variant.shots} shots)" if task.personal else ""),
        "number": task.number,
        "domain": task.domain,
        "metric": task.metric,
        "labels": task.labels,
        "personal": task.personal,
        "oracle_k": task.oracle_k,
        "shots": variant.shots,
        "items": len(variant.items),
        "task_hash": task.hash,
        "data_hash": digest(data)[:16],
        "published": config_lib.to_dict(task.published),
        "systems": systems,
    }


def _fewest(cfg: Evaluation, variant: Variant) -> int:
    return min(cfg.shots or variant.task.shots)


def baseline_answers(cfg: Evaluation, variant: Variant) -> dict[str, list[Answer]]:
    """Parsed answers of the classical baselines."""
    said = baselines.answers(variant.task, variant.train, variant.items, cfg.seed)
    return {
        name: [
            Answer(item, tasks.parse(variant.task, item, text))
            for item, text in zip(variant.items, texts, strict=True)
        ]
        for name, texts in said.items()
    }
