# SPDX-License-Identifier: Apache-2.0
"""Records what the official sampler draws (packages torch and rwkv needed).

python -m tests.rwkvjax.sampling.make_official_sampler
"""

import pathlib
from typing import Any

import numpy as np

VOCAB = 1000
SETTINGS = [
    (1.0, 0.85, 0),
    (1.0, 0.3, 0),
    (0.5, 0.9, 0),
    (2.0, 0.9, 20),
    (1.3, 0.99, 5),
    (0.0, 0.85, 0),
    (1.0, 0.0, 0),
    (0.7, 0.95, 2000),
]


class _Table:
    """A model whose logits depend on the last token only."""

    def __init__(self, torch: Any, table: np.ndarray):
        self._torch, self._table = torch, table

    def forward(self, tokens: list[int], state: Any) -> tuple[Any, Any]:
        return self._torch.tensor(self._table[tokens[-1] % len(self._table)]), state


def record() -> dict[str, np.ndarray]:
    """Draws of `sample_logits` for many settings, and one run of `generate` with penalties."""
    import torch
    from rwkv.utils import PIPELINE, PIPELINE_ARGS

    rng = np.random.RandomState(0)
    logits = np.stack([s * rng.standard_normal(VOCAB) for s in (0.3, 1, 3, 8)]).astype("f4")
    ties = rng.standard_normal((1, VOCAB)).astype("f4")
    ties[0, 100:110] = ties.max()
    logits = np.concatenate([logits, ties])
    pipeline = PIPELINE(None, "rwkv_vocab_v20230424")
    settings, which, drawn = [], [], []
    for number, (temperature, top_p, top_k) in enumerate(SETTINGS):
        # Which of several equals top-k keeps depends on the machine's sort: not recorded.
        for row in range(len(logits) - (top_k > 0)):
            seed = 10 * number + row
            np.random.seed(seed)
            values = torch.tensor(logits[row])
            how = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
            drawn.append([pipeline.sample_logits(values, **how) for _ in range(20)])
            settings.append((temperature, top_p, top_k, seed))
            which.append(row)
    collapsed = []  # top_p 1 over the full vocabulary: (drawn, most likely)
    for _ in range(20):
        values = torch.tensor(rng.standard_normal(65536).astype("f4"))
        drawn_there = pipeline.sample_logits(values, 1.0, 1.0, 0)
        collapsed.append((drawn_there, int(values.argmax())))
    table = rng.standard_normal((16, VOCAB)).astype("f4")
    table[:, 32:60] += 1.5  # single bytes, among them digits and the space, come often
    pipeline.model = _Table(torch, table)
    start = pipeline.encode("A")[-1]
    args = PIPELINE_ARGS(
        top_p=0.0, alpha_presence=0.4, alpha_frequency=0.4, alpha_decay=0.9, token_ban=[0, 17]
    )
    tokens: list[int] = []
    inner = pipeline.sample_logits
    pipeline.sample_logits = lambda *a, **k: (tokens.append(inner(*a, **k)), tokens[-1])[1]
    np.random.seed(0)
    pipeline.generate("A", 200, args)
    return {
        "logits": logits,
        "settings": np.array(settings),
        "which": np.array(which),
        "drawn": np.array(drawn),
        "collapsed": np.array(collapsed),
        "table": table,
        "start": np.array(start),
        "generated": np.array(tokens),
    }


if __name__ == "__main__":
    target = pathlib.Path(__file__).with_name("official_sampler.npz")
    np.savez_compressed(target, **record())
    print(target)
