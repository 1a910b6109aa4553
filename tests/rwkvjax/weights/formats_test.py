# SPDX-License-Identifier: Apache-2.0
"""Round trips through every format, and files that the original programs wrote."""

import json
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rwkvjax
from rwkvjax import weights
from rwkvjax.weights import export, fla, pth, safetensors_file, web_rwkv
from rwkvjax.weights.hf import hf_name, official_name
from rwkvjax.weights.source import DTYPES, in_memory, swapped
from rwkvjax.weights.synthetic import random_checkpoint

UNUSED = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")


def _formats(version):
    formats = ["pth", "safetensors", "checkpoint"]
    if version != "7":
        formats.append("hf")
    if version in ("6", "7"):
        formats.append("fla")
    return formats


def _typed(tensors, dtype):
    return {name: tensor.astype(DTYPES[dtype]) for name, tensor in tensors.items()}


def _same(found, expected, but=()):
    assert set(found) >= set(expected) - set(but)
    for name, tensor in expected.items():
        if name not in but:
            assert found[name].dtype == tensor.dtype
            np.testing.assert_array_equal(found[name], tensor, err_msg=name)


@pytest.fixture
def regular():
    """As `small`, of sizes that every format can express."""

    def make(version):
        ranks = {"R": 4, "P": 6} if version == "6" else {"P": 5, "I": 6, "U": 3, "G": 7}
        sizes = {"layers": 2, "dim": 32, "head_size": 8, "vocab_size": 19}
        return random_checkpoint(version, **sizes, ranks=ranks, seed=5)

    return make


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_pair_of_formats(regular, tmp_path, version, dtype):
    """First -> second -> tensors, bit by bit, for all ordered pairs."""
    tensors = _typed(regular(version), dtype)
    formats = _formats(version)
    if dtype != "bfloat16":
        formats.remove("checkpoint")  # slow, and one dtype proves it
    for first in formats:
        once = tmp_path / first
        report = weights.write(once, in_memory(tensors), format=first)
        assert report.parameters == sum(t.size for t in tensors.values())
        assert report.dtypes == {(dtype, dtype): len(tensors)}
        source, _ = weights.open_model(once)
        but = UNUSED if first == "fla" and version == "7" else ()
        _same({n: t.read() for n, t in source.items()}, tensors, but)
        for second in formats:
            if "checkpoint" in (first, second) and second != "pth":
                continue
            twice = tmp_path / f"{first}-{second}"
            weights.write(twice, source, format=second, verify=False)
            found, _ = weights.open_model(twice)
            drop = UNUSED if version == "7" and "fla" in (first, second) else ()
            _same({n: t.read() for n, t in found.items()}, tensors, drop)


@pytest.mark.parametrize("format", ["pth", "safetensors", "hf", "fla"])
def test_loading_gives_the_same_model(regular, tmp_path, format):
    tensors = regular("6")
    expected_config, expected = weights.from_official(tensors)
    weights.write(tmp_path / "model", in_memory(tensors), format=format)
    config, params = rwkvjax.load(tmp_path / "model")
    assert config == expected_config
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_shards(regular, tmp_path):
    tensors = regular("6")
    weights.write(tmp_path / "many", in_memory(tensors), format="hf", shard_bytes=20_000)
    files = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    found = weights.open_weights(tmp_path / "many").tensors
    _same({n: t.read() for n, t in found.items()}, tensors)
    # A folder of torch shards is read in the same way.
    index = {"weight_map": {}}
    for number, part in enumerate(safetensors_file.plan_shards(in_memory(tensors), 50_000)):
        name = f"pytorch_model-{number}.bin"
        (tmp_path / "torch").mkdir(exist_ok=True)
        with open(tmp_path / "torch" / name, "wb") as file:
            pth.write_pth(file, part)
        index["weight_map"] |= dict.fromkeys(part, name)
    (tmp_path / "torch" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    found = weights.open_weights(tmp_path / "torch").tensors
    _same({n: t.read() for n, t in found.items()}, tensors)


def test_equal_weights_give_equal_files(regular, tmp_path):
    tensors = in_memory(regular("5.2"))
    for format in ("pth", "safetensors"):
        for name in ("one", "two"):
            weights.write(tmp_path / f"{name}.{format}", tensors, format=format, verify=False)
        assert (tmp_path / f"one.{format}").read_bytes() == (
            tmp_path / f"two.{format}"
        ).read_bytes()


def test_hf_config(regular, tmp_path):
    weights.write(tmp_path / "hf", in_memory(regular("6")), format="hf", dtype="bfloat16")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    expected = {
        **{"model_type": "rwkv6", "hidden_size": 32, "attention_hidden_size": 32, "vocab_size": 19},
        **{
            "num_hidden_layers": 2,
            "head_size": 8,
            "head_size_divisor": 8,
            "torch_dtype": "bfloat16",
        },
        **{"intermediate_size": None, "layer_norm_epsilon": 1e-5, "rescale_every": 6},
    }
    assert {key: config[key] for key in expected} == expected


def test_hf_names():
    """Names of the published conversion, spelled out."""
    pairs = {
        "emb.weight": "rwkv.embeddings.weight",
        "blocks.0.ln0.bias": "rwkv.blocks.0.pre_ln.bias",
        "blocks.1.att.time_mix_k": "rwkv.blocks.1.attention.time_mix_key",
        "blocks.1.att.time_mix_g": "rwkv.blocks.1.attention.time_mix_gate",
        "blocks.1.ffn.time_mix_r": "rwkv.blocks.1.feed_forward.time_mix_receptance",
        "blocks.1.att.time_maa_w1": "rwkv.blocks.1.attention.time_maa_w1",
        "blocks.1.ffn.key.weight": "rwkv.blocks.1.feed_forward.key.weight",
        "ln_out.weight": "rwkv.ln_out.weight",
        "head.weight": "head.weight",
    }
    for official, theirs in pairs.items():
        assert hf_name(official) == theirs
        assert official_name(theirs) == official


@pytest.mark.parametrize("version", ["6", "7"])
def test_logits_of_flash_linear_attention(files, tmp_path, version):
    """Exported tensors gave these logits in its own layers (golden/make_golden_fla.py)."""
    with np.load(files.parents[1] / "golden" / "fla" / f"rwkv{version}.npz") as golden:
        arguments, tokens = json.loads(str(golden["arguments"])), golden["tokens"]
        expected = golden["logits"]
    weights.write(tmp_path / "fla", in_memory(random_checkpoint(**arguments)), format="fla")
    config, params = weights.load(tmp_path / "fla")
    logits, _ = rwkvjax.apply(params, config, tokens[None].astype(np.int32))
    np.testing.assert_allclose(logits[0], expected, atol=2e-5)


def test_logits_of_transformers(files, tmp_path):
    """An exported v4 folder gave these logits in RwkvForCausalLM (golden/make_files.py)."""
    tensors = random_checkpoint("4", layers=3, dim=64, seed=31)
    weights.write(tmp_path / "hf", in_memory(tensors), format="hf")
    config, params = weights.load(tmp_path / "hf")
    with np.load(files / "hf_rwkv4.npz") as golden:
        logits, _ = rwkvjax.apply(params, config, golden["tokens"][None].astype(np.int32))
        np.testing.assert_allclose(logits[0], golden["logits"], atol=2e-5)


def test_old_layout_of_flash_linear_attention(regular):
    """The first RWKV-7 models of that library hold the six mixes in one tensor."""
    tensors = regular("7")
    theirs = fla.to_fla("7", in_memory(tensors))
    for layer in range(2):
        parts = [theirs.pop(f"model.layers.{layer}.attn.x_{i}").read() for i in "rwkvag"]
        theirs |= in_memory({f"model.layers.{layer}.attn.x_x": np.concatenate(parts).squeeze()})
    found = fla.from_fla(theirs)
    _same({n: t.read() for n, t in found.items()}, tensors, UNUSED)


@pytest.mark.parametrize("version", ["4", "5.1", "5.2", "6", "7"])
def test_web_rwkv(small, version):
    """Half-precision .st files as Ai00 converts them."""
    tensors = in_memory(small(version))
    theirs = {}
    for name, tensor in tensors.items():
        if version == "5.1" and name.endswith(("att.time_decay", "att.time_faaaa")):
            tensor = in_memory({"": np.repeat(tensor.read()[:, None], 8, axis=1)})[""]
        if name.rpartition(".")[2][-2:] in ("w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2"):
            tensor = swapped(tensor)
        name = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix")
        theirs[name] = tensor
    assert web_rwkv.is_web_rwkv(theirs) == (version != "4")
    found = web_rwkv.from_web_rwkv(theirs) if version != "4" else theirs
    config, params = weights.from_official(found)
    assert config.version == ("5.2" if version == "5.1" else version)
    ours, expected = weights.from_official(tensors)
    tokens = np.arange(6)[None]
    got, _ = rwkvjax.apply(params, config, tokens)
    want, _ = rwkvjax.apply(expected, ours, tokens)
    np.testing.assert_allclose(got, want, atol=1e-6)


# --- files of the original programs -----------------------------------------------------------


def _torch_values():
    values = (np.arange(12, dtype=np.float32) / np.float32(7)).reshape(3, 4)
    return {
        "float32": values,
        "bfloat16": values.astype(ml_dtypes.bfloat16),
        "float16": values.astype(np.float16),
        "float64": values.astype(np.float64),
        "transposed": values.T,
        "part": np.arange(2, 5, dtype=np.float32),
        "strided": np.arange(10, dtype=np.float32)[1::3],
        "parameter": values[0],
        "scalar": np.float32(2.5),
    }


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_files_of_torch(files, name):
    found = pth.read_pth(files / name)
    assert list(found) == list(_torch_values())
    for key, value in _torch_values().items():
        got = found[key].read()
        assert got.dtype == value.dtype
        assert got.shape == found[key].shape == value.shape
        np.testing.assert_array_equal(got, value)


def test_state_dict_with_metadata(files):
    found = pth.read_pth(files / "state_dict.pth")
    assert {n: t.shape for n, t in found.items()} == {"weight": (2, 3), "bias": (2,)}


def test_safetensors_of_the_reference_library(files):
    found = safetensors_file.read_safetensors(files / "torch.safetensors")
    values = (np.arange(6, dtype=np.float32) / np.float32(7)).reshape(2, 3)
    for name, dtype in {"a": "float32", "b": "bfloat16", "c": "float16", "d": "float64"}.items():
        np.testing.assert_array_equal(found[name].read(), values.astype(DTYPES[dtype]))


def test_the_reference_library_reads_ours(small, tmp_path):
    numpy_io = pytest.importorskip("safetensors.numpy")
    tensors = _typed(small("6"), "bfloat16")
    weights.write(tmp_path / "m.safetensors", in_memory(tensors), format="safetensors")
    found = numpy_io.load_file(tmp_path / "m.safetensors")
    _same(found, tensors)


def test_torch_reads_ours(small, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = _typed(small("6"), "bfloat16")
    weights.write(tmp_path / "m.pth", in_memory(tensors), format="pth")
    for mmap in (False, True):
        found = torch.load(tmp_path / "m.pth", weights_only=True, mmap=mmap)
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(
                found[name].view(torch.int16).numpy(), tensor.view(np.int16)
            )


_ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=12),
    st.tuples(
        st.lists(st.integers(1, 5), max_size=4), st.sampled_from(sorted(DTYPES)), st.integers(0, 99)
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40)
@given(drawn=_ARRAYS)
def test_any_tensors_in_any_container(tmp_path, drawn):
    tensors = {}
    for name, (shape, dtype, seed) in drawn.items():
        values = np.random.RandomState(seed).standard_normal(shape)
        tensors[name] = np.asarray(values).astype(DTYPES[dtype])
    for write, read in (
        (pth.write_pth, pth.read_pth),
        (safetensors_file.write_safetensors, safetensors_file.read_safetensors),
    ):
        with open(tmp_path / "file", "wb") as file:
            write(file, in_memory(tensors))
        found = read(tmp_path / "file")
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            got = found[name].read()
            assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
            np.testing.assert_array_equal(got, tensor)


# --- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "beginning"), [("a.pth", b"PK"), ("a.pt", b"PK"), ("a.safetensors", None)]
)
def test_the_name_says_what_is_written(small, tmp_path, name, beginning):
    config, params = weights.from_official(small("6"))
    weights.save(tmp_path / name, config, params)
    start = (tmp_path / name).read_bytes()[:16]
    assert start.startswith(beginning) if beginning else start[8:9] == b"{"
    for other in ("model", "model.bin", "model.PTH"):
        with pytest.raises(ValueError, match=f"'.*{other}' does not say what to write"):
            weights.save(tmp_path / other, config, params)


def test_nothing_is_overwritten_unasked(small, tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists already"):
        weights.write(path, in_memory(small("4")), format="pth")
    assert path.read_bytes() == b"precious"
    weights.write(path, in_memory(small("4")), format="pth", overwrite=True)
    assert weights.load(path)[0].version == "4"


@pytest.mark.parametrize("format", ["pth", "safetensors", "fla"])
def test_a_failed_conversion_leaves_nothing(small, tmp_path, format):
    tensors = small("6")
    tensors["head.weight"] = tensors["head.weight"] * np.nan
    with pytest.raises(weights.WeightsError, match="head.weight holds NaN"):
        weights.write(tmp_path / "out", in_memory(tensors), format=format)
    assert not list(tmp_path.iterdir())


def test_overflow_is_an_error(small, tmp_path):
    tensors = small("6")
    tensors["emb.weight"] = tensors["emb.weight"] * 1e6
    with pytest.raises(weights.WeightsError, match="emb.weight holds NaN or infinite values as"):
        weights.write(tmp_path / "m.pth", in_memory(tensors), format="pth", dtype="float16")


def test_a_folder_is_replaced_as_a_whole(regular, tmp_path):
    for version in ("6", "7"):
        weights.write(tmp_path / "m", in_memory(regular(version)), format="fla", overwrite=True)
        assert weights.load(tmp_path / "m")[0].version == version
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_errors_of_writing(small, tmp_path):
    tensors = in_memory(small("7"))
    for format, match in {
        "hf": "no Hugging Face model class for RWKV-7",
        "gguf": "format must",
    }.items():
        with pytest.raises(ValueError, match=match):
            weights.write(tmp_path / "m", tensors, format=format)
    with pytest.raises(ValueError, match="has no RWKV-4"):
        weights.write(tmp_path / "m", in_memory(small("4")), format="fla")
    with pytest.raises(ValueError, match="only a channel mixing of width 96"):
        weights.write(tmp_path / "m", in_memory(small("6")), format="hf")
    with pytest.raises(FileNotFoundError):
        weights.write(tmp_path / "no" / "m.pth", tensors, format="pth")
    with pytest.raises(ValueError, match="dtype must be"):
        weights.write(tmp_path / "m.pth", tensors, format="pth", dtype="int8")


def test_verification_notices_damage(small, tmp_path, monkeypatch):
    def damaged(path, tensors, *_):
        other = tensors | in_memory({"ln_out.bias": tensors["ln_out.bias"].read() + 1})
        with open(path, "wb") as file:
            pth.write_pth(file, other)

    monkeypatch.setitem(export._WRITERS, "pth", damaged)
    with pytest.raises(weights.WeightsError, match="ln_out.bias does not read back"):
        weights.write(tmp_path / "m.pth", in_memory(small("4")), format="pth")


def test_one_tensor_at_a_time(tmp_path):
    """Conversion needs memory for its largest tensor, not for the model."""
    tensors = in_memory(random_checkpoint("6", layers=12, dim=128, vocab_size=256))
    weights.write(tmp_path / "m.pth", tensors, format="pth", verify=False)
    del tensors
    tracemalloc.start()
    try:
        source, _ = weights.open_model(tmp_path / "m.pth")
        weights.write(tmp_path / "m.st", source, format="safetensors")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    total = (tmp_path / "m.pth").stat().st_size
    largest = max(t.nbytes for t in source.values())
    assert peak < 8 * largest < total / 3


def test_upcycled_model_computes_the_same(small):
    """RWKV-5 -> 6 with LoRAs near zero keeps the function, before any training."""
    for version in ("5.1", "5.2"):
        tensors = in_memory(small(version))
        config, params = weights.from_official(weights.upcycle(tensors, seed=3))
        assert (config.version, config.mix_rank, config.decay_rank) == ("6", 32, 64)
        old_config, old = weights.from_official(tensors)
        tokens = np.arange(9)[None]
        got, _ = rwkvjax.apply(params, config, tokens)
        want, _ = rwkvjax.apply(old, old_config, tokens)
        np.testing.assert_allclose(got, want, atol=1e-4)
        maa = params["blocks"]["ffn"]["time_maa_k"]
        np.testing.assert_array_equal(maa, 1 - old["blocks"]["ffn"]["time_mix_k"])
        lora = params["blocks"]["att"]["time_maa_w1"]
        assert 0 < np.abs(lora).max() <= 1e-4
        again = weights.from_official(weights.upcycle(tensors, seed=3))[1]
        jax.tree.map(np.testing.assert_array_equal, again, params)
    with pytest.raises(weights.WeightsError, match="only RWKV-5.1 and 5.2"):
        weights.upcycle(in_memory(small("5.0")))


def test_tuned_state(files, tmp_path):
    """A state-tuned model starts as in the official package."""
    tensors = random_checkpoint("6", layers=2, dim=64, head_size=32, seed=21)
    random = np.random.RandomState(22)
    states = {
        f"blocks.{layer}.att.time_state": random.standard_normal((2, 32, 32)).astype(np.float32)
        for layer in range(2)
    }
    path, alone = tmp_path / "both.pth", tmp_path / "alone.pth"
    for target, content in ((path, tensors | states), (alone, states)):
        with open(target, "wb") as file:
            pth.write_pth(file, in_memory(content))
    with pytest.raises(weights.WeightsError, match="tuned initial state"):
        weights.load(path)
    config, params = weights.from_official(weights.open_weights(path).tensors)
    with np.load(files / "time_state.npz") as golden:
        tokens, expected = golden["tokens"].astype(np.int32), golden["logits"]
    for source in (path, alone):
        state = weights.load_tuned_state(source, config, batch_size=2)
        logits, _ = rwkvjax.apply(params, config, np.stack([tokens] * 2), state)
        np.testing.assert_allclose(logits, np.stack([expected] * 2), atol=2e-5)
    with pytest.raises(weights.WeightsError, match="time_state"):
        weights.load_tuned_state(files / "torch.safetensors", config)
