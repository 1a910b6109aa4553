# SPDX-License-Identifier: Apache-2.0
"""Adapters: what is trained, what stays as it is, files of the official tools, merging."""

import dataclasses
import json
import lzma
import pathlib
import runpy

import jax
import numpy as np
import pytest

import rwkvjax
from core import checkpoint, cli
from core import params as params_lib
from core.config import ConfigError
from core.datasets import find_dataset
from rwkvjax import experiment, merge, weights
from rwkvjax.finetune import Adapter, load_adapter, lowrank, save_adapter
from rwkvjax.finetune.adapter import lora_to_official, state_to_official
from rwkvjax.finetune.run import export
from rwkvjax.matrices import LowRankMatrix
from rwkvjax.weights import pth
from rwkvjax.weights.source import in_memory
from rwkvjax.weights.synthetic import random_checkpoint

GOLDEN = pathlib.Path(__file__).parent / "golden"
TOKENS = np.random.RandomState(0).randint(0, 97, (2, 8))


def _bytes(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A file of random weights, a text, and conversations."""
    folder = tmp_path_factory.mktemp("base")
    tensors = random_checkpoint("6", dim=32, layers=2, head_size=16, vocab_size=256, seed=3)
    weights.write(folder / "base.safetensors", in_memory(tensors), format="safetensors")
    (folder / "a.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    lines = [{"prompt": f"is {i} even?", "response": "no" if i % 2 else "yes"} for i in range(30)]
    (folder / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _config(base, method, **blocks):
    text = (str(base / "a.txt"),)
    packing = "windows" if method == "state" else "concat"
    values = {
        "data": {"train": text, "heldout": text, "context": 16, "packing": packing},
        "finetune": {"method": method, "base": str(base / "base.safetensors"), "rank": 4},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
        "train": {"steps": 3, "batch_size": 8, "log_every": 1},
    }
    merged = {k: {**values.get(k, {}), **blocks.get(k, {})} for k in {*values, *blocks}}
    return experiment.build_config(merged)


@pytest.mark.parametrize("method", ["lora", pytest.param("pissa", marks=pytest.mark.slow), "state"])
def test_training_changes_the_adapter_alone(base, method, tmp_path):
    cfg = _config(base, method)
    stored, untouched = rwkvjax.load(base / "base.safetensors")
    trainer = experiment.make_trainer(cfg, tmp_path, lambda line: None)
    before = _bytes(trainer.task.frozen)
    start, _ = trainer.task.assemble(trainer._init_params, trainer.task.frozen, 2)
    expected, _ = rwkvjax.apply(untouched, stored, TOKENS)
    np.testing.assert_allclose(rwkvjax.apply(start, stored, TOKENS)[0], expected, 0, 1e-5)

    state = trainer.run()
    assert _bytes(trainer.task.frozen) == before
    if method != "pissa":
        assert before == _bytes(untouched)
    trained = params_lib.count(trainer.task.param_specs())
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) < 2 * trained + 20
    kept, _ = checkpoint.load_params(tmp_path)
    assert jax.tree.structure(kept) == jax.tree.structure(state.params)
    assert sum(x.size for x in jax.tree.leaves(kept)) == trained

    export(trainer.task, state.params, tmp_path)
    whole, first = trainer.task.assemble(state.params, trainer.task.frozen, 2)
    logits, _ = rwkvjax.apply(whole, stored, TOKENS, first or None)
    assert np.abs(np.asarray(logits) - expected).max() > 1e-3  # it did learn something
    for name in ("adapter.safetensors", "adapter.pth"):
        adapter = load_adapter(tmp_path / name, alpha=32.0 if method == "lora" else None)
        assert adapter.kind == ("state" if method == "state" else "lora")
        assert adapter.nbytes < (tmp_path / name).stat().st_size + 40_000
        for merged in (False, True):
            params = adapter.apply(stored, untouched, merge=merged)
            again, _ = rwkvjax.apply(params, stored, TOKENS, adapter.initial_state(stored, 2))
            np.testing.assert_allclose(again, logits, 0, 1e-5)
        assert _bytes(untouched) == _bytes(rwkvjax.load(base / "base.safetensors")[1])
    if method == "pissa":  # a resumed run subtracts the parts that the first one stored
        resumed = experiment.make_trainer(cfg, tmp_path, lambda line: None)
        assert _bytes(resumed.task.frozen) == before


def test_merging_is_the_official_sum(base, tmp_path):
    """W += B A alpha / r in the official layout, other tensors replace the base's."""
    cfg, params = rwkvjax.load(base / "base.safetensors")
    official = weights.to_official(cfg, params)
    rng = np.random.RandomState(1)
    tensors = {
        "blocks.0.att.key.lora_A": rng.randn(3, 32),
        "blocks.0.att.key.lora_B": rng.randn(32, 3),
        "blocks.1.ffn.value.lora_A": rng.randn(2, official["blocks.1.ffn.value.weight"].shape[1]),
        "blocks.1.ffn.value.lora_B": rng.randn(32, 2),
        "blocks.1.att.time_maa_k": rng.randn(1, 1, 32),
        "ln_out.weight": rng.randn(32),
    }
    tensors = {k: v.astype(np.float32) for k, v in tensors.items()}
    path = tmp_path / "theirs.pth"
    with open(path, "wb") as file:
        pth.write_pth(file, in_memory({f"model.{k}": v for k, v in tensors.items()}))
    with pytest.raises(ValueError, match="does not say LoRA's alpha"):
        load_adapter(path)
    with pytest.raises(ValueError, match=r"alpha / r needs one rank, found \[2, 3\]"):
        load_adapter(path, alpha=6.0)
    adapter = Adapter("lora", tensors, 2.0)
    merged = weights.to_official(cfg, adapter.apply(cfg, params, merge=True))
    for name, value in official.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A" in tensors:
            value = value + 2.0 * tensors[f"{stem}.lora_B"] @ tensors[f"{stem}.lora_A"]
        np.testing.assert_allclose(merged[name], tensors.get(name, value), 0, 1e-5, err_msg=name)


def test_the_merging_program(base, tmp_path, capsys):
    cfg, params = rwkvjax.load(base / "base.safetensors")
    tree = params_lib.init(lowrank.specs(cfg, 2, ("att",), ("time",)), jax.random.key(0))
    adapter = Adapter("lora", lora_to_official(cfg, tree), 0.5)
    states = np.random.RandomState(2).randn(2, 2, 16, 16)
    tuned = Adapter("state", state_to_official(cfg, states))
    save_adapter(tmp_path / "lora.safetensors", adapter)
    save_adapter(tmp_path / "state.safetensors", tuned)

    def run(name, *arguments):
        values = merge._FLAGS
        where = (f"--base={base / 'base.safetensors'}", f"--adapter={tmp_path / name}")
        values(["merge", *where, *arguments])
        merge.main(values)

    run("lora.safetensors", f"--dst={tmp_path / 'merged.pth'}")
    _, found = rwkvjax.load(tmp_path / "merged.pth")
    assert _bytes(found) == _bytes(adapter.apply(cfg, params, merge=True))
    run("state.safetensors", f"--dst={tmp_path / 'both.pth'}")
    assert "tuned state" in capsys.readouterr().out
    opened = weights.open_weights(tmp_path / "both.pth")
    assert _bytes(weights.from_official(opened.tensors)[1]) == _bytes(params)
    again = weights.load_tuned_state(tmp_path / "both.pth", cfg)
    np.testing.assert_array_equal(again.wkv[:, 0], states.astype(np.float32))
    with pytest.raises(cli.UserError, match="exists already"):
        run("state.safetensors", f"--dst={tmp_path / 'both.pth'}")


@pytest.mark.parametrize("name", ["v5_2", "v6", "v7"])
def test_exported_states_give_the_official_logits(name, tmp_path):
    make = runpy.run_path(str(GOLDEN / "make_golden_state.py"))
    _, cfg, params, states = make["case"](name)
    path = tmp_path / "state.pth"
    save_adapter(path, Adapter("state", state_to_official(cfg, states)))
    adapter = load_adapter(path)
    np.testing.assert_array_equal(adapter.initial_state(cfg, 1).wkv[:, 0], states)
    with np.load(GOLDEN / "state.npz") as golden:
        tokens, expected = golden["tokens"], golden[name]
    logits, _ = rwkvjax.apply(params, cfg, tokens[None], adapter.initial_state(cfg, 1))
    np.testing.assert_allclose(logits[0], expected, 0, 3e-5)
    wrong = jax.tree.map(np.asarray, adapter.initial_state(cfg, 1))
    wrong = wrong._replace(wkv=wrong.wkv.swapaxes(-1, -2))
    assert np.abs(rwkvjax.apply(params, cfg, tokens[None], wrong)[0][0] - expected).max() > 0.1


def test_state_tuning_beats_the_base_on_a_real_text(tmp_path):
    """The memory of the tiny trained model is a few bytes long, hence the short windows."""
    try:
        packed = find_dataset("rwkv_tiny") / "tiny-rwkv-5v2-730K-FP32.bin.xz"
        text = find_dataset("tiny_shakespeare") / "input.txt.gz"
    except FileNotFoundError as error:
        pytest.skip(str(error))
    source = tmp_path / "base.bin"
    source.write_bytes(lzma.decompress(packed.read_bytes()))
    data = {
        **{"train": (str(text),), "heldout_fraction": 0.05, "heldout_tokens": 6144},
        **{"heldout": (), "context": 12, "packing": "windows", "eval_batch_size": 128},
    }
    cfg = _config(
        tmp_path,
        "state",
        data=data,
        finetune={"base": str(source)},
        optimizer={"learning_rate": 0.03, "final_learning_rate": 0.003, "warmup_steps": 2},
        train={"steps": 30, "batch_size": 32, "log_every": 10},
    )
    trainer = experiment.make_trainer(cfg, tmp_path / "run", lambda line: None)
    before = _bytes(trainer.task.frozen)
    untouched = trainer.evaluate(trainer._init_params)["eval/bits_per_byte"]
    tuned = trainer.evaluate(trainer.run().params)["eval/bits_per_byte"]
    assert tuned < untouched - 0.02
    assert _bytes(trainer.task.frozen) == before == _bytes(rwkvjax.load(source)[1])


def test_a_quantised_base_takes_an_adapter(base, tmp_path):
    cfg = _config(base, "lora", finetune={"quantize": 8}, train={"steps": 1})
    trainer = experiment.make_trainer(cfg, tmp_path, lambda line: None)
    state = trainer.run()
    whole, _ = trainer.task.assemble(state.params, trainer.task.frozen, 2)
    leaf = whole["blocks"]["att"]["key"]
    assert isinstance(leaf, LowRankMatrix) and leaf.base.bits == 8
    stored, plain = rwkvjax.load(base / "base.safetensors")
    adapter = trainer.task.adapter(state.params)
    with pytest.raises(ValueError, match="merge into the weights that it was made from"):
        adapter.apply(stored, trainer.task.frozen, merge=True)
    close = rwkvjax.apply(adapter.apply(stored, plain), stored, TOKENS)[0]
    exact = rwkvjax.apply(whole, stored, TOKENS)[0]
    assert np.abs(np.asarray(close) - exact).max() < 0.2


def test_principal_factors_hold_the_largest_singular_values(base):
    cfg, params = rwkvjax.load(base / "base.safetensors")
    exact = lowrank.principal_factors(params, cfg, 4)
    near = lowrank.principal_factors(params, cfg, 4, iterations=8)
    weight = np.asarray(params["blocks"]["ffn"]["key"][1], np.float64)
    values = np.linalg.svd(weight, compute_uv=False)
    for tree, tolerance in ((exact, 1e-4), (near, 2e-2)):
        pair = {
            k: np.asarray(v[1], np.float64) for k, v in tree["lora"]["blocks"]["ffn"]["key"].items()
        }
        left = np.linalg.svd(weight - pair["down"] @ pair["up"], compute_uv=False)[0]
        np.testing.assert_allclose(left, values[4], rtol=tolerance)
        np.testing.assert_allclose((pair["down"] ** 2).sum(), values[:4].sum(), rtol=tolerance)


def test_full_training_starts_from_the_base(base, tmp_path):
    cfg = _config(base, "full", train={"steps": 1})
    trainer = experiment.make_trainer(cfg, tmp_path, lambda line: None)
    assert _bytes(trainer._init_params) == _bytes(rwkvjax.load(base / "base.safetensors")[1])
    trainer.run()
    assert dataclasses.asdict(rwkvjax.load(tmp_path)[0])["dim"] == 32


def test_chat_data_trains_a_state(base, tmp_path):
    chat = (str(base / "chat.jsonl"),)
    data = {"train": chat, "heldout": chat, "format": "chat", "packing": "none", "context": 48}
    cfg = _config(base, "state", data=data)
    trainer = experiment.make_trainer(cfg, tmp_path, lambda line: None)
    losses = trainer.evaluate(trainer._init_params), trainer.evaluate(trainer.run().params)
    assert losses[1]["eval/loss"] < losses[0]["eval/loss"]


@pytest.mark.parametrize(
    "blocks, message",
    [
        ({"finetune": {"base": ""}}, "base is required"),
        ({"finetune": {"base": "nowhere"}}, "no checkpoint found at nowhere"),
        ({"finetune": {"parts": ("head",)}}, "parts must be some of"),
        ({"finetune": {"quantize": 3}}, "quantize must be"),
        ({"finetune": {"rank": 0}}, "rank >= 1"),
        ({"model": {"dim": 64}}, "config.model.dim is 64, but the base"),
        ({"data": {"packing": "best_fit"}}, "packing must be windows"),
        ({"data": {"format": "chat"}}, "chat data: packing must be"),
    ],
)
def test_configurations_that_do_not_fit(base, blocks, message):
    with pytest.raises((ConfigError, FileNotFoundError), match=message):
        _config(base, "state", **blocks)


def test_adapters_that_do_not_fit(base, tmp_path):
    cfg, params = rwkvjax.load(base / "base.safetensors")
    tree = params_lib.init(lowrank.specs(cfg, 2, ("att",), ("ln",)), jax.random.key(0))
    tensors = lora_to_official(cfg, tree)
    change = lambda **kw: {**tensors, **kw}
    key = "blocks.0.att.key.lora_A"
    cases = [
        ({key: np.zeros((2, 31), np.float32)}, "expected shape"),
        ({"blocks.7.att.key.lora_A": tensors[key]}, "tensors that the base has not"),
        ({"ln_out.weight": np.zeros(3, np.float32)}, "ln_out.weight: expected shape"),
    ]
    for extra, message in cases:
        with pytest.raises(weights.WeightsError, match=message):
            Adapter("lora", change(**extra)).apply(cfg, params)
    alone = {k: v for k, v in tensors.items() if not k.endswith("key.lora_B")}
    with pytest.raises(weights.WeightsError, match="go together"):
        Adapter("lora", alone).apply(cfg, params)
    with pytest.raises(weights.WeightsError, match="is not an adapter"):
        load_adapter(base / "base.safetensors")
    save_adapter(
        tmp_path / "nan.safetensors", Adapter("lora", change(**{key: tensors[key] * np.nan}))
    )
    with pytest.raises(weights.WeightsError, match="NaN"):
        load_adapter(tmp_path / "nan.safetensors")
    states = state_to_official(cfg, np.zeros((2, 2, 16, 16)))
    with pytest.raises(weights.WeightsError, match="expected blocks.1"):
        Adapter("state", {"blocks.0.att.time_state": states["blocks.0.att.time_state"]}).apply(
            cfg, params
        )
