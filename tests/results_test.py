# SPDX-License-Identifier: Apache-2.0
"""RESULTS.md is what the records say, records are checked, and a run becomes a record."""

import json
import re

import pytest
from absl import flags

from benchmarks import report
from core import config as config_lib

GOOD = """
system = "Text augmentation"
result = "gain"
status = "not yet"
page = "docs/augmentation.md"
command = "python -m nlp.augment"
[ours]
value = "-1.8 points"
seeds = [0]
[budget]
data = "600 tweets"
hardware = "a core"
[paper]
title = "From Big to Small"
arxiv = "2312.04720"
headline = "36.17 to 39.96"
source = "notebook"
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="record.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_page_in_the_tree_is_current():
    text = report.markdown(report.read_all())
    assert report.TARGET.read_text(encoding="utf-8") == text, "run python -m benchmarks.report"


def test_every_system_and_headline_stands_in_the_page():
    records = report.read_all()
    text = report.markdown(records)
    assert {r.system for r in records.values()} == set(report.SYSTEMS)
    for name, record in records.items():
        assert f"- `{name}`: " in text and record.result in text
        assert record.ours.value == "none" or record.ours.value in text


def test_numbers_of_records_stand_on_their_pages(repo):
    """The main number of each result is one that its page gives, too."""
    for name, record in report.read_all().items():
        page = (repo / record.page).read_text(encoding="utf-8").replace(",", "")
        page = re.sub(r"(?<=\d) (?=\d{3}\b)", "", page)  # 4 770 is one number
        number = next((w for w in record.ours.value.split() if any(c.isdigit() for c in w)), "")
        number = number.strip(",();+").rstrip(".").replace(",", "")
        assert number or record.ours.value == "none", f"{name}: no number in {record.ours.value}"
        whole = rf"(?<![\d.]){re.escape(number)}(?!\d)"
        assert re.search(whole, page), f"{name}: {number} is not in {record.page}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('status = "not yet"', 'status = "nearly"', "status must be one of"),
        ('status = "not yet"', 'statsu = "not yet"', "statsu'. Did you mean 'status'"),
        ('result = "gain"\n', "", r"lacks the required keys \['result'\]"),
        ('system = "Text', 'system = "Txet', "system must be one of"),
        ('page = "docs/aug', 'page = "docs/gua', "does not exist"),
        ("seeds = [0]", 'seeds = "0"', r"ours.seeds expects a list, got '0'"),
        ('arxiv = "2312', 'arxiv = "x2312', "arxiv must be an id"),
        ('source = "notebook"', "", "a number needs its place"),
        ("[ours]", "[ours", "not a TOML file"),
        ('status = "not yet"', 'status = "measured"', "for results without a paper"),
    ],
)
def test_broken_records_are_refused_by_name(write, old, new, message):
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(config_lib.ConfigError, match=message) as stop:
        report.read(path)
    assert "record.toml" in str(stop.value)


def test_a_good_record_is_read_and_written_again(write):
    record = report.read(write(GOOD))
    assert report.read(write(report.as_toml(record), "again.toml")) == record


def test_other_files_beside_the_records_are_refused(write, tmp_path):
    write(GOOD)
    write("", "record.tmol")
    with pytest.raises(config_lib.ConfigError, match=r"record\.tmol"):
        report.read_all(tmp_path)


@pytest.fixture
def values():
    own = flags.FlagValues()
    for name in report._FLAGS:
        flags.DEFINE_string(name, "", "", flag_values=own)
    own(["report"])
    own.name, own.system, own.result = "jsb", "Online learning and spiking cells", "JSB, test nats"
    own.page, own.score, own.status = "docs/spiking_tasks.md", "test.nll", "measured"
    return own


def a_run(tmp_path):
    config = {
        "config": {"train": {"seed": 3, "steps": 40}, "data": {"name": "chorales"}},
        "command": ["/x/snn/train.py", "--config=configs/snn/ostl_jsb.py:ostl", "--workdir=a b"],
        "devices": ["TFRT_CPU_0"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "report.json").write_text(json.dumps({"test": {"nll": 8.5, "ok": True}}))
    return tmp_path


def test_a_run_becomes_a_record(tmp_path, values):
    run = a_run(tmp_path)
    folder = tmp_path / "records"
    folder.mkdir()
    values.run = str(run)
    record = report.read(report.add(values, folder))
    assert record.ours == report.Ours("8.5", (3,)) and record.budget.steps == 40
    assert record.command == (
        "python -m snn.train --config=configs/snn/ostl_jsb.py:ostl '--workdir=a b'"
    )
    assert "JSB, test nats" in report.markdown({"jsb": record})
    with pytest.raises(FileExistsError, match="choose another --name"):
        report.add(values, folder)


def test_a_number_that_is_not_in_the_report_is_explained(tmp_path, values):
    values.score = "nll"
    with pytest.raises(ValueError, match=r"it has test\.nll 8\.5"):
        report.from_run(a_run(tmp_path), values)
    with pytest.raises(FileNotFoundError, match="not a finished run"):
        report.from_run(tmp_path / "elsewhere", values)
