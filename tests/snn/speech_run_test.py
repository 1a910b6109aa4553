# SPDX-License-Identifier: Apache-2.0
"""Whole runs on a corpus of tones: training, resuming, bad items, files and pipes."""

import io
import json
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from core import cli
from snn import train as train_program
from snn import transcribe as transcribe_program
from snn.speech import audio, manifest
from snn.speech.recogniser import load

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
pytest.importorskip("jiwer")

WORDS = {"low": 300.0, "mid": 1000.0, "high": 2500.0}


def tones(rng, names):
    """Each word is a tone of 0.2 s in noise; a pause follows each."""
    t = np.arange(1600) / 8000
    parts = [np.zeros(400)]
    for name in names:
        parts += [0.3 * np.sin(2 * np.pi * WORDS[name] * t), np.zeros(int(rng.integers(400, 1200)))]
    samples = np.concatenate(parts)
    return samples + rng.normal(0, 0.002, len(samples))


def make_corpus(folder, count, seed):
    rng = np.random.default_rng(seed)
    folder.mkdir()
    rows = []
    for i in range(count):
        names = [str(n) for n in rng.choice(list(WORDS), int(rng.integers(1, 4)))]
        samples = tones(rng, names)
        soundfile.write(folder / f"{i}.wav", samples, 8000)
        rows.append({"audio": f"{i}.wav", "text": " ".join(names), "duration": len(samples) / 8000})
    manifest.write(folder / "m.jsonl", rows)
    return str(folder / "m.jsonl")


def config(data, steps=300, **overrides):
    unit = {"cell": ("output_ssnu",), "train_decay": True, "threshold": 0.3}
    values = {
        "task": "transducer",
        "data": {**data, "tokens": "words", "buckets": 1, "eval_batch_size": 8},
        "features": {"rate": 8000, "bands": 12, "stack": 4, "skip": 4},
        "augment": {"speeds": (0.95, 1.05), "time_masks": 1, "time_width": 4},
        "model": {
            "encoder": {**unit, "hidden": (24,)},
            "prediction": {**unit, "hidden": (8,)},
            "joint": "additive",
            "joint_size": 16,
            "gain": 3.0,
        },
        "optimizer": {"learning_rate": 2e-2, "warmup_steps": 5, "final_learning_rate": 1e-3},
        "train": {"steps": steps, "batch_size": 8, "log_every": 50},
    }
    for block, more in overrides.items():
        values[block] = {**values[block], **more}
    return ConfigDict(values)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    return {part: make_corpus(folder / part, n, n) for part, n in (("train", 40), ("valid", 10))}


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train_program.main(config({**corpus, "test": corpus["valid"]}), str(out))
    return out


def test_a_run_learns_tones_and_reports(run):
    report = json.loads((run / "report.json").read_text())
    assert report["test_wer"] < 0.25, report
    assert report["multiplications_per_second"] > 0 and 0 < report["real_time_factor"] < 5
    for name in ("costs.md", "loss.png", "utterance.png", "test_transcripts.jsonl"):
        assert (run / name).stat().st_size > 100
    lines = [json.loads(x) for x in (run / "test_transcripts.jsonl").read_text().splitlines()]
    assert len(lines) == 10 and set(lines[0]) == {"file", "text", "found"}


def flags_of(run, **values):
    """The flags of the program as they stand without a command line."""
    defaults = {f.name: f.value for f in transcribe_program._FLAGS._flags().values()}
    return types.SimpleNamespace(**{**defaults, "checkpoint": str(run), **values})


def test_transcription_of_files(run, corpus, tmp_path, capsys):
    items, _ = manifest.read(corpus["valid"])
    # Another rate and two channels: the same words.
    samples, _ = soundfile.read(items[0].path)
    wide = audio.resample(samples, 8000, 44_100)
    soundfile.write(tmp_path / "wide.flac", np.stack([wide, wide], axis=1), 44_100)
    files = [str(items[0].path), str(tmp_path / "wide.flac")]
    transcribe_program.main(flags_of(run), files)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == files and lines[0][1] == lines[1][1] != ""
    assert lines[0][1] == load(run).transcribe(audio.read(items[0].path, 8000)).text
    transcribe_program.main(flags_of(run, words=True), files[:1])
    words = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert " ".join(word for _, _, word in words) == lines[0][1]
    assert all(0 <= float(a) <= float(b) < items[0].duration + 0.2 for a, b, _ in words)
    transcribe_program.main(flags_of(run, beam=3), files[:1])
    assert capsys.readouterr().out.strip()


def test_transcription_of_a_pipe(run, corpus, monkeypatch, capsys):
    items, _ = manifest.read(corpus["valid"])
    expected = load(run).transcribe(audio.read(items[0].path, 8000)).text
    samples, _ = soundfile.read(items[0].path, dtype="int16")
    pipe = io.TextIOWrapper(io.BytesIO(samples.tobytes()))
    monkeypatch.setattr("sys.stdin", pipe)
    transcribe_program.main(flags_of(run, pcm_rate=8000, partial=True), ["-"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == expected and all(expected.startswith(line) for line in lines)
    assert len(lines) > len(expected.split())


def test_bad_files_are_named(run, corpus, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"RIFFxxxx")
    items, _ = manifest.read(corpus["valid"])
    files = [str(tmp_path / "bad.wav"), str(items[0].path)]
    with pytest.raises(cli.UserError, match="bad.wav: not a sound file"):
        transcribe_program.main(flags_of(run), files)
    with pytest.raises(cli.UserError, match="1 of 2 files"):
        transcribe_program.main(flags_of(run, keep_going=True), files)
    shown = capsys.readouterr()
    assert "left out:" in shown.err and str(items[0].path) in shown.out
    with pytest.raises(cli.UserError, match="at least one file"):
        transcribe_program.main(flags_of(run), [])
    with pytest.raises(cli.UserError, match="no checkpoint"):
        transcribe_program.main(flags_of(tmp_path), files)
    soundfile.write(tmp_path / "long.wav", np.zeros(8000 * 130), 8000)
    with pytest.raises(cli.UserError, match="long.wav: 130 s of sound are too much"):
        transcribe_program.main(flags_of(run, beam=2), [str(tmp_path / "long.wav")])


def test_a_run_goes_on_past_bad_items_only_if_asked(corpus, tmp_path, capsys):
    """A broken line and a file of noise bytes among the training items; then both are resumed."""
    items, _ = manifest.read(corpus["train"])
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    rows = [
        {"audio": str(item.path), "text": item.text, "duration": item.duration}
        for item in items[:10]
    ]
    bad = {"audio": str(tmp_path / "bad.wav"), "text": "low", "duration": 0.5}
    lines = [json.dumps(row) for row in [*rows, bad]]
    (tmp_path / "test.jsonl").write_text("\n".join([json.dumps(bad), *lines[:3]]) + "\n")
    (tmp_path / "m.jsonl").write_text("\n".join([*lines, '{"audio": 3}']) + "\n")
    data = {"train": str(tmp_path / "m.jsonl"), "valid": corpus["valid"]}
    with pytest.raises(cli.UserError, match="line 12: audio has the wrong type"):
        train_program.main(config(data, steps=3), str(tmp_path / "a"))
    (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(cli.UserError, match="bad.wav .*line 11.*not a sound file"):
        train_program.main(config(data, steps=3), str(tmp_path / "b"))
    (tmp_path / "m.jsonl").write_text("\n".join([*lines, '{"audio": 3}']) + "\n")
    data["test"] = str(tmp_path / "test.jsonl")
    train_program.main(config({**data, "skip_bad": True}, steps=3), str(tmp_path / "c"))
    shown = capsys.readouterr().err
    assert "line 12" in shown and "test.jsonl, line 1" in shown and shown.count("left out:") == 3
    found = (tmp_path / "c" / "test_transcripts.jsonl").read_text().splitlines()
    assert len(found) == 3 and (tmp_path / "c" / "utterance.png").exists()
    # A bad item of the test part is met when training is over: one line, too.
    with pytest.raises(cli.UserError, match="bad.wav .*line 1.*not a sound file"):
        clean = {**data, "train": corpus["train"]}
        train_program.main(config(clean, steps=1), str(tmp_path / "d"))
    assert json.loads((tmp_path / "c" / "report.json").read_text())["parameters_of_step"] == 3
    train_program.main(config({**data, "skip_bad": True}, steps=4), str(tmp_path / "c"))
    assert "resumed from step 3" in capsys.readouterr().err


def test_bad_configurations_are_named():
    from core.config import ConfigError

    with pytest.raises(ConfigError, match="either a corpus, or the manifests"):
        train_program.main(config({}), "unused")
    with pytest.raises(ConfigError, match="tokens must be one of"):
        wrong = config({"corpus": "fsdd"})
        wrong.data.tokens = "runes"
        train_program.main(wrong, "unused")
