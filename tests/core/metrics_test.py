# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from core import metrics


def test_jsonl_is_cut_back_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.JsonlWriter(path)
    for step in range(1, 6):
        writer.scalars(step, {"loss": 1.0 / step})
    writer.close()
    with open(path, "a") as f:
        f.write('{"step": 6, "lo')  # a crash in the middle of a line
    assert [r["step"] for r in metrics.read_jsonl(path)] == [1, 2, 3, 4, 5]
    writer = metrics.JsonlWriter(path, resume_step=3)
    writer.scalars(4, {"loss": float("nan")})
    writer.close()
    records = metrics.read_jsonl(path)
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    assert records[-1]["loss"] == "nan"
    assert records[2]["loss"] == 1.0 / 3


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2: not JSON"):
        metrics.read_jsonl(path)


def test_window_survives_json():
    a = metrics.Window()
    values = np.random.default_rng(0).normal(size=7).astype(np.float32)
    for v in values[:4]:
        a.add({"loss": float(v)})
    b = metrics.Window(**json.loads(json.dumps(a.state())))
    for v in values[4:]:
        a.add({"loss": float(v)})
        b.add({"loss": float(v)})
    assert a.take() == b.take()


def test_tensorboard_writes_files(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = metrics.FanOut([metrics.TensorBoardWriter(tmp_path)])
    writer.scalars(1, {"loss": 0.5})
    writer.text(1, "sample", "hello")
    writer.image(1, "picture", np.zeros((4, 4, 3), np.uint8))
    writer.flush()
    writer.close()
    assert any("tfevents" in p.name for p in tmp_path.iterdir())
