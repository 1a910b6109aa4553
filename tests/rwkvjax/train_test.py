# SPDX-License-Identifier: Apache-2.0
"""The binaries and configurations, as users run them (shrunk)."""

import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from core import config as config_lib
from core import metrics
from rwkvjax import checkpoints, experiment

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "rwkvjax").glob("*.py"))

TINY = [
    *("--config.model.dim=32", "--config.model.layers=1", "--config.model.head_size=16"),
    *("--config.data.context=16", "--config.data.heldout_tokens=600"),
    *("--config.train.batch_size=4", "--config.train.log_every=1", "--config.sample.tokens=8"),
    *("--config.train.steps=8", "--config.train.save_every=2", "--config.train.eval_every=4"),
]


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(python, module, *args, check=True, **kwargs):
    env = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [python, "-m", module, *args],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )
    if check:
        assert out.returncode == 0, out.stdout + out.stderr
    return out


def _quickstart(workdir):
    return ["--config=configs/rwkvjax/quickstart.py", f"--workdir={workdir}", *TINY]


def test_quickstart_trains_resumes_after_sigkill_and_samples(python, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    out = _run(python, "rwkvjax.train", *_quickstart(whole))
    assert "tokens/s" in out.stderr and "mfu" in out.stderr and "eta" in out.stderr
    for name in ("loss.png", "samples.txt", "metrics.jsonl", "config.json"):
        assert (whole / name).stat().st_size > 0
    assert "def " in out.stdout

    process = subprocess.Popen(
        [python, "-m", "rwkvjax.train", *_quickstart(killed)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if (killed / "checkpoints" / "4" / "params").exists():
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait()
    again = _run(python, "rwkvjax.train", *_quickstart(killed))
    assert process.returncode != -signal.SIGKILL or "resumed from step" in again.stderr

    def losses(workdir):
        records = metrics.read_jsonl(workdir / "metrics.jsonl")
        keep = ("step", "loss", "eval/bits_per_byte")
        return [{k: r[k] for k in keep if k in r} for r in records]

    assert losses(killed) == losses(whole)
    assert (killed / "samples.txt").read_text() == (whole / "samples.txt").read_text()

    sampled = _run(
        python,
        "rwkvjax.generate",
        *(f"--checkpoint={whole}", "--prompt=import ", "--tokens=9", "--samples=2"),
    )
    assert sampled.stdout.count("import ") == 2
    cfg, params = checkpoints.load(whole)
    assert cfg.dim == 32 and params["emb"]["weight"].shape == (256, 32)


def test_mistakes_end_with_one_line(python, tmp_path):
    cases = [
        (["--config.data.train=('nowhere.txt',)"], "nowhere.txt"),
        (["--config.model.version=9"], "version must be one of"),
    ]
    for extra, message in cases:
        out = _run(python, "rwkvjax.train", *_quickstart(tmp_path / "x"), *extra, check=False)
        assert out.returncode == 2, out.stderr
        assert message in out.stderr and "Traceback" not in out.stderr
    out = _run(python, "rwkvjax.generate", "--checkpoint=nowhere", check=False)
    assert out.returncode == 2 and "no checkpoint found" in out.stderr
    out = _run(python, "rwkvjax.generate", "--help")
    assert "--prompt" in out.stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds_and_trains(path, tmp_path):
    module = _load(path)
    assert re.search(r"python -m rwkvjax\.\w+ --config=configs/rwkvjax/", module.__doc__)
    values = module.get_config()
    values.model.update({"size": "", "dim": 32, "layers": 1, "head_size": 16})
    text = tmp_path / "a.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 30)
    values.data.update({"context": 16, "heldout_tokens": 100, "tokenizer": "byte"})
    values.data.train = values.data.heldout = (str(text),)
    values.train.update({"steps": 2, "batch_size": 4, "log_every": 1})
    cfg = experiment.build_config(values)
    lines = []
    experiment.make_trainer(cfg, tmp_path / "run", lines.append).run()
    assert any("bits_per_byte" in line for line in lines)


# --- the parts of an experiment -------------------------------------------------------------------


def _values(**blocks):
    base = {
        "model": {"dim": 32, "layers": 1, "head_size": 16},
        "data": {"train": ("stdlib:train",)},
        "train": {"steps": 2, "batch_size": 2},
    }
    return {k: {**base.get(k, {}), **blocks.get(k, {})} for k in {*base, *blocks}}


@pytest.mark.parametrize(
    "blocks, message",
    [
        ({"model": {"dims": 3}}, "config.model.dims.*Did you mean 'dim'"),
        ({"model": {"size": "finch-2b"}}, "unknown size 'finch-2b'"),
        ({"optimizer": {"lr": 1.0}}, "unknown key 'config.optimizer.lr'"),
        ({"trian": {}}, "unknown key 'config.trian'. Did you mean 'train'"),
        ({"data": {"contxt": 3}}, "Did you mean 'context'"),
    ],
)
def test_misspelt_keys_are_named(blocks, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        experiment.build_config(_values(**blocks))


def test_published_size_with_changes():
    cfg = experiment.build_config(
        _values(model={"size": "eagle-0.4b", "dim": 64, "head_size": 32, "layers": 2})
    )
    assert (cfg.model.version, cfg.model.dim, cfg.model.vocab_size) == ("5.2", 64, 256)


def test_vocabulary_smaller_than_the_tokenizer(tmp_path):
    cfg = experiment.build_config(_values(model={"vocab_size": 100}))
    with pytest.raises(config_lib.ConfigError, match="vocab_size 100 is smaller"):
        experiment.make_trainer(cfg, tmp_path)


def test_data_that_is_not_there(tmp_path):
    (tmp_path / "empty.txt").touch()
    for name, error in (("nowhere.txt", FileNotFoundError), ("empty.txt", ValueError)):
        cfg = experiment.build_config(_values(data={"train": (str(tmp_path / name),)}))
        with pytest.raises(error, match=name):
            experiment.make_trainer(cfg, tmp_path / "run")


def test_token_lengths_of_bytes():
    from rwkvjax.tokenizers import ByteTokenizer

    np.testing.assert_array_equal(experiment.token_lengths(ByteTokenizer(), 300)[:256], 1)
    assert not experiment.token_lengths(ByteTokenizer(), 300)[256:].any()
