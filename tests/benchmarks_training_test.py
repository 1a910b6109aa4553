# SPDX-License-Identifier: Apache-2.0
"""Trainings side by side: names, tables, figures and what a finished run means."""

import json
import types

import pytest

from benchmarks import architectures, mqar, training
from core import cli


def _recall(model, length, dim, accuracy, steps):
    return {
        **{"model": model, "length": length, "pairs": length // 8, "dim": dim},
        **{"accuracy": accuracy, "steps": steps, "seed": 0, "curve": [(steps, accuracy)]},
    }


def test_models_are_named_by_what_differs():
    assert training.parse("6:ddlerp=none:ffn_dim=384") == ("6", {"ddlerp": "none", "ffn_dim": 384})
    assert training.name_of("6:ddlerp=none") == "RWKV-6 Finch, ddlerp none"
    for bad in ("8", "6:ddlerp", ""):
        with pytest.raises(cli.UserError, match="VERSION"):
            training.parse(bad)


def test_recall_table_and_figure(tmp_path, capsys):
    results = [
        _recall("4", 32, 16, 0.25, 800),
        _recall("6", 32, 16, 0.9, 800),
        _recall("6", 32, 32, 1.0, 300),
        _recall("6", 64, 32, 0.5, 800),
    ]
    training.write(tmp_path, results, mqar.table, mqar.plot)
    assert (tmp_path / "results.md").read_text().splitlines() == [
        "| T, pairs | | width 16 | width 32 |",
        "|---|---|---|---|",
        "| 32, 4 | RWKV-4 | 0.250 (800) |  |",
        "| 32, 4 | RWKV-6 Finch | 0.900 (800) | 1.000 (300) |",
        "| 64, 8 | RWKV-6 Finch |  | 0.500 (800) |",
    ]
    stored = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["accuracy"] for line in stored] == [0.25, 0.9, 1.0, 0.5]
    assert (tmp_path / "results.png").stat().st_size > 1000
    assert "RWKV-6 Finch" in capsys.readouterr().out


def test_losses_of_several_seeds():
    run = {"parameters": 1000, "tokens": 2000, "bits_per_byte": 2.0, "curve": [(1, 3.0)]}
    results = [{"model": "6", "heldout_loss": loss, **run} for loss in (1.0, 1.2)]
    line = architectures.table(results).splitlines()[-1]
    assert line == "| RWKV-6 Finch | 1,000 | 2,000 | 1.1000 ± 0.1414 | 2.0000 | 2 |"
    assert len(architectures.plot(results).axes) == 2


@pytest.mark.parametrize(
    "last, runs",
    [({"step": 5, "a": 0.995}, 0), ({"step": 5, "a": 0.5}, 1), ({"step": 10, "a": 0.5}, 0)],
)
def test_finished_runs_are_not_repeated(tmp_path, last, runs):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(last) + "\n")
    ran = []
    trainer = types.SimpleNamespace(
        workdir=tmp_path,
        cfg=types.SimpleNamespace(steps=10),
        task=types.SimpleNamespace(enough=lambda values: values["a"] > 0.99),
        run=lambda: ran.append(1),
    )
    assert training.evaluations(trainer, "a") == [last]
    assert len(ran) == runs
