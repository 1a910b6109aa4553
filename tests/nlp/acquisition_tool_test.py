# SPDX-License-Identifier: Apache-2.0
"""The acquisition tool: state in SQLite, crashes, bad files, a whole project by command line."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from core import cli, files
from nlp import acquire
from nlp.acquisition import project as project_lib
from nlp.acquisition import store
from nlp.acquisition.heads import Heads
from nlp.annotations import DataError
from nlp.personalization.encoders import Encoder

TOOL = project_lib.Tool(
    encoder=Encoder("hashing", features=64), heads=Heads(epochs=15), start=40, audit=0.2,
    threshold=0.4, clusters=3,
)  # fmt: skip


def answer(text):
    """Two tasks that a word decides."""
    return {"red": int("red" in text.split()), "long": int("very" in text.split())}


def texts(count):
    rng = np.random.default_rng(0)
    words = ["red", "blue", "very", "small", "house", "tree", "river", "stone"]
    return [(f"n{i}", " ".join(rng.choice(words, 5)) + f" {i}") for i in range(count)]


def give(project):
    rows = [
        (name, task, "ann", answer(text)[task]) for name, text, task, _ in project.open_questions()
    ]
    return project.add_answers(rows)


@pytest.fixture
def project(tmp_path):
    with store.Project(tmp_path / "p.sqlite") as opened:
        opened.add_texts(texts(200))
        opened.add_tasks(["red", "long"])
        yield opened


def test_rounds_ask_what_matters(project):
    assert project_lib.plan_round(project, TOOL, 10) == 40  # the first round is larger
    assert len(project.open_questions()) == 80
    with pytest.raises(ValueError, match="no answers yet"):
        project_lib.plan_round(project, TOOL, 10)
    assert give(project) == 80
    assert project_lib.plan_round(project, TOOL, 60) == 60
    give(project)
    assert project_lib.plan_round(project, TOOL, 500) == 100
    give(project)
    assert project_lib.plan_round(project, TOOL, 5) == 0  # everything is decided
    found = project_lib.status(project, TOOL)
    assert found["open"] == 0 and found["texts"] == 200 and found["rounds"] == 3
    assert found["questions"] + found["skipped"] == 400
    assert 0.1 < found["removed"] < 0.6
    truth = sum(sum(answer(text).values()) for _, text in texts(200))
    assert found["positives_found"] > 0.75 * truth
    assert found["aal"] is not None and found["audit_answers"] == found["audit"]
    lost = truth - found["positives_found"]
    assert lost <= found["positives_lost_at_most"] <= found["skipped"]


def test_limit_of_what_is_lost():
    # No yes among n answers: 1 - 0.05 ** (1 / n), the "rule of three".
    assert project_lib.upper_limit(0, 46) == pytest.approx(1 - 0.05 ** (1 / 46))
    assert project_lib.upper_limit(1, 10) == pytest.approx(0.3942, abs=1e-4)
    assert project_lib.upper_limit(4, 4) == 1.0


def test_state_survives_reopening_and_repeats_are_harmless(tmp_path):
    path = tmp_path / "p.sqlite"
    for _ in range(2):
        with store.Project(path) as project:
            project.add_texts(texts(20))
            project.add_tasks(["red", "long"])
            project_lib.plan_round(project, TOOL, 20)
            before = project.open_questions()
            assert len(before) in (0, 40)
            give(project)
    with store.Project(path) as project:
        assert project.counts()["answers"] == 40 and len(project.open_questions(2)) == 40


def test_a_second_answer_replaces_and_another_person_adds(project):
    project_lib.plan_round(project, TOOL, 10)
    name, _, task, _ = project.open_questions()[0]
    for person, value in (("a", 1), ("a", 0), ("b", 1)):
        project.add_answers([(name, task, person, value)])
    labels = project.labels()
    row, column = labels.text_ids.index(name), labels.labels.index(task)
    assert labels.share[row, column] == 0.5 and labels.votes[row, column] == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [(("zzz", "red", "a", 1), "unknown text or task"), (("n0", "blue", "a", 1), "unknown text"),
     (("n0", "red", "", 1), "annotator and 0 or 1"), (("n0", "red", "a", 7), "0 or 1")],
)  # fmt: skip
def test_bad_answers_store_nothing(project, row, message):
    project_lib.plan_round(project, TOOL, 200)
    good = ("n1", "red", "a", 1)
    with pytest.raises(DataError, match=message):
        project.add_answers([good, row])
    assert project.counts()["answers"] == 0


def test_answers_to_what_was_not_asked_are_refused(project):
    with pytest.raises(DataError, match="never asked"):
        project.add_answers([("n0", "red", "a", 1)])


def test_bad_texts_and_tasks(project):
    with pytest.raises(DataError, match="another text"):
        project.add_texts([("n0", "something else")])
    with pytest.raises(DataError, match="empty"):
        project.add_texts([("new", "  ")])
    with pytest.raises(DataError, match="has the tasks"):
        project.add_tasks(["red"])


def test_other_files_and_a_second_process_are_refused(tmp_path):
    (tmp_path / "x.sqlite").write_bytes(b"no database at all, but long enough to be read" * 50)
    with pytest.raises(DataError, match="no annotation project"):
        store.Project(tmp_path / "x.sqlite")
    with pytest.raises(FileNotFoundError):
        store.Project(tmp_path / "no" / "p.sqlite")
    with store.Project(tmp_path / "p.sqlite"), pytest.raises(files.FileInUseError):
        store.Project(tmp_path / "p.sqlite")


KILLED = """
import sys
from nlp.acquisition import store
with store.Project(sys.argv[1]) as project:
    def rows():
        for i in range(10**9):
            if i == 50:
                print("half", flush=True)
            if i >= 50:
                import time
                time.sleep(60)
            yield (f"id{i}", f"text {i}")
    project.add_texts(rows())
"""


def test_a_killed_import_leaves_nothing_half_done(tmp_path, repo):
    path = tmp_path / "p.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout.readline().strip() == b"half"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    time.sleep(0.1)
    with store.Project(path) as project:
        assert project.counts()["texts"] == 0
        assert project.add_texts(texts(5)) == 5


def flags_of(**values):
    parsed = acquire._FLAGS
    parsed.unparse_flags()
    arguments = [f"--{k}={v}" for k, v in values.items()]
    for name in ("project", "texts", "answers", "out", "export", "tasks", "ask", "status", "clean"):
        parsed[name].unparse()
    parsed(["acquire", *arguments])
    return parsed


def test_whole_project_by_files(tmp_path, capsys):
    state = tmp_path / "p.sqlite"
    source = texts(120)
    store.write_rows(tmp_path / "texts.csv", ("id", "text"), source)
    acquire.main(flags_of(project=state, texts=tmp_path / "texts.csv", tasks="red,long", ask=120,
                          out=tmp_path / "q.csv"))  # fmt: skip
    questions = store.read_rows(tmp_path / "q.csv", ("text_id", "task", "reason"))
    assert len(questions) == 240
    given = [(q["text_id"], q["task"], "me", answer(q["text"])[q["task"]]) for q in questions]
    store.write_rows(tmp_path / "a.csv", ("text_id", "task", "annotator", "value"), given)
    acquire.main(flags_of(project=state, answers=tmp_path / "a.csv", export=tmp_path / "l.csv",
                          status="true"))  # fmt: skip
    said = capsys.readouterr().out
    assert "120 of 120 texts added" in said and "240 answers stored" in said
    assert not any(text in said for _, text in source)
    assert json.loads(said[said.index("{") :])["positives_found"] > 0
    with open(tmp_path / "l.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 241


def test_texts_before_tasks_are_refused(tmp_path):
    store.write_rows(tmp_path / "texts.csv", ("id", "text"), texts(3))
    with pytest.raises(cli.UserError, match="no tasks yet"):
        acquire.main(flags_of(project=tmp_path / "p.sqlite", texts=tmp_path / "texts.csv"))
    with store.Project(tmp_path / "p.sqlite") as project:
        assert project.texts() == []


def test_a_configuration_that_is_not_there_is_one_message(tmp_path):
    command = [sys.executable, "-m", "nlp.acquire", f"--project={tmp_path / 'p.sqlite'}"]
    done = subprocess.run(
        [*command, f"--config={tmp_path / 'no.py'}", "--status"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr and "no.py" in done.stderr


def test_bad_csv_files(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,words\n1,a\n")
    with pytest.raises(DataError, match="no column 'text'"):
        store.read_rows(path, ("text",))
    path.write_text("1,a secret text that nobody should see\n")
    with pytest.raises(DataError, match="no column 'text'") as error:
        store.read_rows(path, ("text",))
    assert "nobody should see" not in str(error.value)
    path.write_text("")
    with pytest.raises(DataError, match="no column 'text'"):
        store.read_rows(path, ("text",))
    path.write_text("id,text,text\n1,a,b\n")
    with pytest.raises(DataError, match="same name"):
        store.read_rows(path, ("text",))
    path.write_text("id,text\n1,a,b\n")
    with pytest.raises(DataError, match="must have 2 cells"):
        store.read_rows(path, ("text",))
    path.write_bytes(b"id,text\n1,\xff\xfe\n")
    with pytest.raises(DataError):
        store.read_rows(path, ("text",))
