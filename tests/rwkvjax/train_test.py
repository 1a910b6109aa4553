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
from rwkvjax import checkpoints, experiment, weights
from rwkvjax.weights.source import in_memory
from rwkvjax.weights.synthetic import random_checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The recall experiment has a program of its own, benchmarks/mqar.py.
CONFIGS = [p for p in sorted((ROOT / "configs" / "rwkvjax").glob("*.py")) if p.stem != "mqar"]

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
    assert "optimiser groups: lr1 (" in out.stderr
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
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    assert "resumed from step" in again.stderr

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
        (["--config.model.dimm=3"], "dimm"),
        (["--config.data.packing=tight"], "packing must be one of"),
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
    text = tmp_path / "a.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 30)
    if values.finetune.method:
        tensors = random_checkpoint("6", dim=32, layers=1, head_size=16, vocab_size=256)
        base = tmp_path / "base.safetensors"
        weights.write(base, in_memory(tensors), format="safetensors")
        values.finetune.update({"base": str(base), "rank": 2})
    else:
        values.model.update({"size": "", "dim": 32, "layers": 1, "head_size": 16})
    if values.data.format == "chat":
        text.write_text('{"prompt": "a", "response": "b"}\n' * 8)
    values.data.update({"context": 32, "heldout_tokens": 100, "heldout_fraction": 0.0})
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


def test_every_key_can_be_set_from_the_command_line():
    values = experiment.default_config()
    values.lock()
    values.train.seed, values.train.mesh.model, values.data.packing = 3, 2, "best_fit"
    values.model.dim = 64
    values.data.train = ("stdlib:train",)
    cfg = experiment.build_config(values)
    assert (cfg.train.seed, dict(cfg.train.mesh)["model"], cfg.model.dim) == (3, 2, 64)
    assert cfg.model.layers == experiment.Config().layers


def test_an_empty_name_is_no_input(tmp_path):
    """As the flag `--config.data.heldout=` gives it; as a path it would be the current folder."""
    data = {"train": ("",), "heldout": ("",), "heldout_fraction": 0.1}
    cfg = experiment.build_config(_values(data=data))
    assert cfg.data.train == cfg.data.heldout == ()
    with pytest.raises(ValueError, match="name at least one text file"):
        experiment.make_trainer(cfg, tmp_path)


def test_held_out_fraction_keeps_documents_apart(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(f'{{"text": "document {i:02d}"}}\n' for i in range(50)))
    data = experiment.DataConfig(train=(str(path),), heldout_fraction=0.1)
    from rwkvjax.tokenizers import ByteTokenizer

    train, held = experiment.open_stores(data, ByteTokenizer())
    size = len("document 00") + 1
    assert train.num_tokens == 45 * size and held.num_tokens == 5 * size
    np.testing.assert_array_equal(train.document_bounds(), np.arange(46) * size)
    np.testing.assert_array_equal(held.document_starts(0, 10**6), np.arange(5) * size)
    assert bytes(held.window(0, 11).astype(np.uint8)) == b"document 45"


def test_prepared_file_of_another_tokenizer_is_refused(tmp_path):
    from rwkvjax.data.binidx_builder import stats_path
    from rwkvjax.data.prepare import PrepareOptions, prepare
    from rwkvjax.tokenizers import ByteTokenizer

    (tmp_path / "a.txt").write_text("some text\n" * 20)
    name = str(tmp_path / "tokens")
    prepare(PrepareOptions(inputs=(str(tmp_path / "a.txt"),), output=name, tokenizer="byte"))
    data = experiment.DataConfig(train=(name,))
    assert experiment.open_stores(data, ByteTokenizer())[0].num_tokens > 200
    stats = stats_path(name)
    stats.write_text(stats.read_text().replace(ByteTokenizer().digest, "0" * 64))
    with pytest.raises(ValueError, match="was made with the 'byte' tokenizer"):
        experiment.open_stores(data, ByteTokenizer())


def test_a_recipe_is_trained_as_a_mixture(tmp_path):
    from rwkvjax.data import BinidxBuilder, Mixture

    (tmp_path / "r.toml").write_text(
        'name = "two"\n[groups]\na = 0.75\nb = 0.25\n'
        '[sources.x]\ntitle = "x"\ngroup = "a"\n[sources.y]\ntitle = "y"\ngroup = "b"\n'
    )
    sources = []
    for key, token in (("x", 1), ("y", 2)):
        with BinidxBuilder(tmp_path / key, np.uint16) as builder:
            builder.add_document(np.full(2000, token))
            builder.finish()
        sources.append((key, str(tmp_path / key)))
    values = _values(data={"train": (), "recipe": str(tmp_path / "r.toml"), "sources": sources})
    values["data"]["context"] = 16
    cfg = experiment.build_config(values)
    trainer = experiment.make_trainer(cfg, tmp_path / "run")
    assert isinstance(trainer.source, Mixture)
    tokens = trainer.source.get(np.arange(40))["tokens"]
    assert (tokens[:, 0] == 1).sum() == 30


def test_token_lengths_of_bytes():
    from rwkvjax.tokenizers import ByteTokenizer

    np.testing.assert_array_equal(experiment.token_lengths(ByteTokenizer(), 300)[:256], 1)
    assert not experiment.token_lengths(ByteTokenizer(), 300)[256:].any()
