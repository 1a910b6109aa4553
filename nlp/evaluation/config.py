# SPDX-License-Identifier: Apache-2.0
"""Configuration of an evaluation: which tasks, which models, how hard, how scored."""

from __future__ import annotations

import dataclasses
from decimal import Decimal, InvalidOperation

from nlp.evaluation import limits, runner
from nlp.evaluation.fewshot import SELECTIONS
from nlp.evaluation.tasks import POLICIES

BACKENDS = ("openai", "rwkv", "replay")


@dataclasses.dataclass(frozen=True)
class Model:
    """One model and how it is asked.

    Attributes:
      name: in tables and file names.
      backend: "openai" (any compatible endpoint), "rwkv" (in this process), "replay" (a file).
      model, base_url, endpoint, temperature, top_p, max_tokens, token_parameter, stop, seed,
        stream: of an endpoint, see `backends.openai_api.Endpoint`.
      api_key_env: NAME of the environment variable with the key; never the key.
      path: checkpoint or file of stored answers, see `backends.replay`.
      tokenizer: of a checkpoint.
      mode, normalised, template, batch_size: of "rwkv", see `nlp.rwkv_models.Options`.
      concurrency, requests_per_minute, tokens_per_minute, retries, timeout, backoff, backoff_cap,
        longest_wait, failures_in_a_row: see `runner.Settings`.
      price_prompt, price_completion: money for a million tokens, decimal strings.
      budget: money for one run, a decimal string; "" for no limit.
    """

    name: str
    backend: str = "openai"
    model: str = ""
    base_url: str = "https://api.openai.com/v1"
    endpoint: str = "chat"
    api_key_env: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 128
    token_parameter: str = "max_tokens"
    stop: tuple[str, ...] = ()
    seed: int = -1
    stream: bool = False
    path: str = ""
    tokenizer: str = ""
    mode: str = "rank"
    normalised: bool = False
    template: str = "User: {prompt}\n\nAssistant:"
    batch_size: int = 8
    concurrency: int = 8
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    retries: int = 6
    timeout: float = 60.0
    backoff: float = 1.0
    backoff_cap: float = 60.0
    longest_wait: float = 600.0
    failures_in_a_row: int = 20
    price_prompt: str = "0"
    price_completion: str = "0"
    budget: str = ""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {self.backend!r}")
        if not self.name or set(self.name) & set('/\\:*?"<>|\0'):
            raise ValueError(f"a model's name must be usable as a file name, got {self.name!r}")
        if self.backend != "openai" and not self.path:
            raise ValueError(f"model {self.name!r}: backend {self.backend!r} needs a path")
        self.settings()

    @property
    def prices(self) -> limits.Prices:
        """Exact prices."""
        return limits.Prices.parse(self.price_prompt, self.price_completion)

    def settings(self) -> runner.Settings:
        """What the runner needs."""
        try:
            budget = Decimal(self.budget) if self.budget else None
        except InvalidOperation as error:
            raise ValueError(f"budget must be a decimal number, got {self.budget!r}") from error
        if budget is not None and self.prices == limits.Prices():
            raise ValueError(f"model {self.name!r}: a budget needs price_prompt, price_completion")
        local = self.backend != "openai"
        return runner.Settings(
            concurrency=1 if local else self.concurrency,
            requests_per_minute=0 if local else self.requests_per_minute,
            tokens_per_minute=0 if local else self.tokens_per_minute,
            retries=self.retries,
            timeout=0 if local else self.timeout,
            backoff=self.backoff,
            backoff_cap=self.backoff_cap,
            longest_wait=self.longest_wait,
            failures_in_a_row=self.failures_in_a_row,
            prices=self.prices,
            budget=budget,
        )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A whole evaluation.

    Attributes:
      tasks: ids; "study" stands for the 25 tasks of the study, "available" for all tasks whose data
        are on this machine.
      task_files: further task definitions (TOML).
      models: what is evaluated.
      data: {task id: folder} where a task's data are not found by themselves.
      limit: ask a random sample of at most this many items of each task; 0 asks all.
      shots: numbers of personal examples; () takes those of each task.
      selection: "random" or "controversial"; "" takes that of each task.
      policy: for unusable answers, see `scoring`; all policies are in the results.
      resamples: of bootstrap and significance tests.
      cache: file of stored answers, may be shared by runs; "" is cache.sqlite in the workdir.
      seed: of example draws, random baseline, bootstrap.
    """

    models: tuple[Model, ...]
    tasks: tuple[str, ...] = ("available",)
    task_files: tuple[str, ...] = ()
    data: tuple[tuple[str, str], ...] = ()
    limit: int = 0
    shots: tuple[int, ...] = ()
    selection: str = ""
    policy: str = "strict"
    resamples: int = 1000
    cache: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must name at least one model")
        names = [m.name for m in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"models must have different names, got {names}")
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {POLICIES}, got {self.policy!r}")
        if self.selection not in ("", *SELECTIONS):
            raise ValueError(f"selection must be one of {SELECTIONS}, got {self.selection!r}")
        if self.limit < 0 or self.resamples < 0 or any(not 0 <= s <= 10 for s in self.shots):
            raise ValueError("expected limit >= 0, resamples >= 0 and shots from 0 to 10")
