# SPDX-License-Identifier: Apache-2.0
"""Which runs are put together."""

import json

import pytest

from perception import evaluate, runs

CONFIG = {
    "task": "reasoning",
    "data": {"name": "svrt/1", "train": 500, "test": 2000, "workers": 0},
    "model": {"options": [["depth", 2]]},
    "train": {"steps": 200, "seed": 0, "eval_every": 10},
}


def changed(block, name, value):
    return {**CONFIG, block: {**CONFIG[block], name: value}}


def report(config, accuracy):
    return evaluate.Report(
        "svrt/1, 500 problems, abstractor",
        config["train"]["seed"],
        {"svrt/1": {"accuracy": accuracy, "count": 2000}},
        runs.settings(config),
    )


def test_only_the_seed_and_what_has_no_influence_may_differ():
    usual = runs.settings(CONFIG)
    for block, name, value in (
        ("train", "seed", 1), ("train", "eval_every", 5), ("data", "workers", 2),
        ("data", "test", 40),
    ):  # fmt: skip
        assert runs.settings(changed(block, name, value)) == usual
    for block, name, value in (
        ("train", "steps", 100), ("data", "train", 1000), ("data", "seed", 1),
        ("model", "options", [["depth", 24]]),
    ):  # fmt: skip
        assert runs.settings(changed(block, name, value)) != usual


def test_runs_of_other_settings_are_not_averaged():
    """One run had twice the steps: two rows, not an average of three."""
    found = [
        report(CONFIG, 0.7),
        report(changed("train", "steps", 400), 0.9),
        report(changed("train", "seed", 1), 0.72),
    ]
    rows = evaluate.summarise(found)
    assert [(r.setting, r.seeds, round(r.mean, 1)) for r in rows] == [
        ("svrt/1, 500 problems, abstractor, train.steps=200", 2, 71.0),
        ("svrt/1, 500 problems, abstractor, train.steps=400", 1, 90.0),
    ]
    (row,) = evaluate.summarise(found[:1])
    assert row.setting == "svrt/1, 500 problems, abstractor"


def test_a_seed_counts_once():
    again = changed("train", "eval_every", 5)
    with pytest.raises(ValueError, match="have the seed 0: they say nothing"):
        evaluate.summarise([report(CONFIG, 0.7), report(again, 0.7)])


def test_names_of_runs_may_contain_commas():
    evaluate.FLAGS(["evaluate", "--runs=runs/gap_svrt,problem=1*", "--runs=runs/b", "--sets=a/1,b"])
    assert evaluate.FLAGS.runs == ["runs/gap_svrt,problem=1*", "runs/b"]
    assert evaluate.FLAGS.sets == ["a/1", "b"]


def test_runs_must_exist_and_describe_themselves(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run .* matches '.*none"):
        runs.find([str(tmp_path / "none*")], "config.json")
    run = tmp_path / "run"
    run.mkdir()
    for text in ("{", "[]", '{"config": 3}'):
        (run / "config.json").write_text(text)
        with pytest.raises(ValueError, match="does not describe a run"):
            runs.read_config(run)
    (run / "config.json").write_text(json.dumps({"config": CONFIG}))
    assert runs.read_config(run) == CONFIG
    # A folder that two patterns match is one run.
    assert runs.find([f"{tmp_path}/r*", f"{tmp_path}/*n"], "config.json") == [run]
