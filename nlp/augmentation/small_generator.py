# SPDX-License-Identifier: Apache-2.0
"""A generator that is always at hand: a small RWKV that learned to vary labelled texts.

It is no instruction-following model and does not read the conversations of the other backends. It
learns from the training texts alone, in its own short form:

  para, para_conv   the source with 30 % or 50 % of its words missing -> the whole source
  insp              the source -> another training text with the same label
  insp_lab          the label and the source -> another training text with that label

and draws what it writes. Reports that use it must say so: it shows the machinery, not what a large
model would do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nlp import rwkv_models as rwkv
from nlp import small_rwkv
from nlp.augmentation.conversations import KINDS, Source
from nlp.evaluation.records import Request, Response, digest

MISSING_WORDS = {"para": 0.3, "para_conv": 0.5, "insp": 0.0, "insp_lab": 0.0}
_MARKS = dict(zip(KINDS, "pcit", strict=True))
_END = "\n\n"


def short_form(source: Source, kind: str, rng: np.random.Generator, length: int) -> str:
    """What the model reads, at most about `length` characters."""
    words = source.text.split()
    kept = [w for w in words if rng.random() >= MISSING_WORDS[kind]] or words[:1]
    label = f" {source.label}" if kind == "insp_lab" else ""
    return f"{_MARKS[kind]}{label}: {' '.join(kept)[:length]} =>"


def lessons(sources: Sequence[Source], length: int, repeats: int, seed: int) -> list[str]:
    """Training documents: every source in every kind, `repeats` times."""
    rng = np.random.default_rng([seed, 5])
    by_label: dict[str, list[Source]] = {}
    for source in sources:
        by_label.setdefault(source.label, []).append(source)
    documents = []
    for _ in range(repeats):
        for source in sources:
            for kind in KINDS:
                target = source
                if kind.startswith("insp"):
                    own = by_label[source.label]
                    target = own[int(rng.integers(len(own)))]
                answer = " ".join(target.text.split())[:length]
                documents.append(f"{short_form(source, kind, rng, length)} {answer}{_END}")
    return documents


def check_base(base: str, how: small_rwkv.SmallModel) -> None:
    """ValueError if the model to start from has another shape; reads no weights."""
    cfg, _ = rwkv.checkpoints.load_config(base)
    names = (
        *("version", "vocab_size", "dim", "layers", "head_size", "ddlerp"),
        *("group_norm_eps", "layer_norm_eps", "resolved_att_dim", "resolved_ffn_dim"),
        *("resolved_mix_rank", "resolved_decay_rank", "resolved_iclr_rank"),
        *("resolved_value_rank", "resolved_gate_rank"),
    )
    found, wanted = (
        {n.removeprefix("resolved_"): getattr(c, n) for n in names} for c in (cfg, how.config)
    )
    if found != wanted:
        other = [f"{n} {found[n]} instead of {wanted[n]}" for n in found if found[n] != wanted[n]]
        raise ValueError(
            f"{base} has another shape than the generator: {', '.join(other)}; set"
            " --config.small.model.dim and its siblings, or take another base"
        )


def load_base(base: str, how: small_rwkv.SmallModel) -> dict:
    """The parameters that the generator starts from; see `check_base`."""
    check_base(base, how)
    _, params = rwkv.checkpoints.load(base)
    return params


def train(
    sources: Sequence[Source],
    how: small_rwkv.SmallModel,
    workdir: str | os.PathLike[str],
    *,
    length: int = 120,
    repeats: int = 1,
    base: str = "",
    report: Any = None,
) -> SmallGenerator:
    """Trains a generator on labelled texts, or takes the finished one of `workdir`.

    Args:
      sources: training texts.
      how: shape and length of the training; its shape must be that of `base`.
      workdir: of the run.
      length: longest source and answer, in characters.
      repeats: how often each source is varied for the training.
      base: model to start from; "" starts from nothing.
      report: receives progress lines.
    """
    initial = load_base(base, how) if base else None
    documents = lessons(sources, length, repeats, how.seed)
    cfg, params = small_rwkv.train(documents, how, workdir, report, initial)
    return SmallGenerator(cfg, params, sources, length=length, seed=how.seed)


class SmallGenerator:
    """A backend of `nlp.evaluation` around such a model; it answers requests of `generation`."""

    def __init__(
        self,
        cfg: rwkv.Config,
        params: dict,
        sources: Sequence[Source],
        *,
        length: int = 120,
        temperature: float = 0.8,
        seed: int = 0,
        batch_size: int = 64,
    ):
        """Takes the model, the sources it will be asked about, and how it draws."""
        options = rwkv.Options(
            mode="generate", template="{prompt}", max_tokens=length + 8, stop=(_END,),
            temperature=temperature, seed=seed, batch_size=batch_size, share_prefix=False,
        )  # fmt: skip
        self._inner = rwkv.RWKVBackend(cfg, params, rwkv.ByteTokenizer(), options)
        self._sources = {source.id: source for source in sources}
        self._length, self._seed = length, seed
        self.batch_size = batch_size
        self.max_completion = length + 8
        # The source's id is not in the conversation, but decides what is read: hence per item.
        self.identity: Mapping[str, Any] = {
            **self._inner.identity, "kind": "small_generator", "per_item": True,
        }  # fmt: skip

    async def close(self) -> None:
        await self._inner.close()

    async def answer(self, requests: Sequence[Request]) -> list[Response]:
        return await asyncio.to_thread(self.answer_now, requests)

    def answer_now(self, requests: Sequence[Request]) -> list[Response]:
        """As `answer`, without an event loop."""
        return self._inner.answer_now([self._shortened(request) for request in requests])

    def _shortened(self, request: Request) -> Request:
        kind = request.task.removeprefix("augment-")
        if kind not in KINDS or request.item not in self._sources:
            raise ValueError(f"no source for {request.task}/{request.item}")
        # What is left out follows from the request alone, so that a repeated run reads the same.
        number = int(digest([kind, request.item, request.sample, self._seed])[:12], 16)
        rng = np.random.default_rng(number)
        text = short_form(self._sources[request.item], kind, rng, self._length)
        return Request(request.task, request.item, (("user", text),), sample=request.sample)
