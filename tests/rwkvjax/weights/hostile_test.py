# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile files: one type of error, nothing executed, bounded memory."""

import io
import json
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvjax import weights
from rwkvjax.weights import pickles, pth, safetensors_file
from rwkvjax.weights.source import in_memory

MARKER = pathlib.Path("/tmp/rwkvjax_was_here")
# Far above what reading a header of these small files needs, far below what they claim.
MEMORY = 8 << 20


@pytest.fixture
def samples(small, ggml_file, files):
    """Complete small files, name -> bytes, and the tensors in them are never needed whole."""
    tensors = in_memory({n: t for n, t in small("6").items() if t.size < 200 or "emb" in n})
    out = {"ggml": ggml_file("6", small("6")).read_bytes()[:6000]}
    for name, write in (
        ("zip", pth.write_pth),
        ("safetensors", safetensors_file.write_safetensors),
    ):
        buffer = io.BytesIO()
        write(buffer, tensors)
        out[name] = buffer.getvalue()
    out["legacy"] = (files / "legacy.pth").read_bytes()
    out["torch"] = (files / "zip.pth").read_bytes()
    return out


def _open_and_read(path):
    """Everything a caller may do with a file; raises only WeightsError for bad content."""
    opened = weights.open_weights(path)
    for tensor in opened.tensors.values():
        array = tensor.read()
        assert array.shape == tensor.shape
        assert array.dtype == tensor.dtype
    return opened


def _attempt(path, data):
    """True if the file is readable; bounded memory and one type of error otherwise."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        _open_and_read(path)
        return True
    except weights.WeightsError as error:
        assert str(error)
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY


@pytest.mark.parametrize("kind", ["zip", "safetensors", "ggml", "legacy", "torch"])
def test_truncation_at_any_length(samples, tmp_path, kind):
    data = samples[kind]
    path = tmp_path / "file"
    complete = _attempt(path, data)
    assert complete == (kind != "ggml")  # that one is cut already
    for length in sorted({*range(0, 64), *range(64, len(data), max(1, len(data) // 150))}):
        assert not _attempt(path, data[:length]), length


@pytest.mark.parametrize("kind", ["zip", "safetensors", "ggml", "legacy", "torch"])
def test_random_damage(samples, tmp_path, kind):
    data, path = samples[kind], tmp_path / "file"

    @settings(max_examples=150)
    @given(
        changes=st.lists(
            st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), min_size=1, max_size=6
        )
    )
    def check(changes):
        damaged = bytearray(data)
        for place, byte in changes:
            damaged[place] = byte
        _attempt(path, bytes(damaged))

    check()


@settings(max_examples=150)
@given(data=st.binary(max_size=300))
def test_random_bytes(tmp_path, data):
    path = tmp_path / "file"
    for start in (b"", b"PK\x03\x04", b"\x80\x02", b"fmgg" + struct.pack("<i", 101)):
        _attempt(path, start + data)
    body = b"{" + data
    _attempt(path, struct.pack("<Q", len(body)) + body)


@settings(max_examples=300)
@given(data=st.binary(max_size=120))
def test_random_pickles(data):
    for program in (data, b"\x80\x02" + data + b".", b"\x80\x02}(" + data + b"u."):
        try:
            pickles.parse(program)
        except weights.WeightsError:
            pass


class _Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["hostile.pth", "hostile_legacy.pth"])
def test_hostile_pickles_of_torch(files, name):
    MARKER.unlink(missing_ok=True)
    with pytest.raises(weights.WeightsError, match="posix.system.*nothing of it was run"):
        weights.load(files / name)
    assert not MARKER.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [eval, exec, __import__, getattr, MARKER.touch])
def test_no_call_is_ever_made(protocol, function):
    MARKER.unlink(missing_ok=True)
    argument = f"open({str(MARKER)!r}, 'w')"
    bound = function == MARKER.touch
    program = pickle.dumps({"w": _Calls(function, *(() if bound else (argument,)))}, protocol)
    with pytest.raises(weights.WeightsError):
        pickles.parse(program)
    assert not MARKER.exists()


def _archive(content, *, compression=zipfile.ZIP_STORED, data=b"\0" * 16):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", data)
    return buffer.getvalue()


def _pickled_tensor(shape, strides, offset=0, count=4, key="0", storage="FloatStorage"):
    """The pickle of {"w": tensor} with any numbers in it."""
    template = pth._describe(in_memory({"w": np.zeros(4, np.float32)}))
    numbers = pth._integer(4) + b"tQ" + pth._integer(0) + pth._tuple((4,)) + pth._tuple((1,))
    assert numbers in template
    changed = pth._integer(count) + b"tQ" + pth._integer(offset)
    program = template.replace(numbers, changed + pth._tuple(shape) + pth._tuple(strides))
    program = program.replace(b"FloatStorage", storage.encode())
    return program.replace(pth._text("0"), pth._text(key))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (_pickled_tensor((4,), (1,), offset=1), "reaches outside its storage"),
        (_pickled_tensor((4,), (1,), offset=-1), "reaches outside its storage"),
        (_pickled_tensor((5,), (1,)), "reaches outside its storage"),
        (_pickled_tensor((2**40,), (0,)), "elements of the tensor overlap"),
        (_pickled_tensor((2**20, 2**20), (0, 0)), "elements of the tensor overlap"),
        (_pickled_tensor((3, 3), (1, -1)), "reaches outside its storage"),
        (_pickled_tensor((2**62, 2**62), (1, 1)), "reaches outside its storage"),
        (_pickled_tensor((4, 0), (1, 1)), "is empty"),
        (_pickled_tensor((4,), (1, 1)), "differ in length"),
        (_pickled_tensor((1,) * 20, (1,) * 20), "impossible shape"),
        (_pickled_tensor((4,), (1,), key="9"), "values of w are missing"),
        (_pickled_tensor((2,), (1,), storage="LongStorage"), "weights are floating-point"),
        (_pickled_tensor((2,), (1,), storage="QUInt8Storage"), "refers to 'torch.QUInt8Storage'"),
        (pickle.dumps({"w": 3}, 2), "'w' is int"),
        (pickle.dumps([1, 2], 2), "expected a dict of tensors, got list"),
        (pickle.dumps({}, 2), "holds no tensors"),
        (pickle.dumps({1: 2}, 2), "expected a dict of tensors"),
        (pickle.dumps({"_strategy": "cpu fp32", "_version": "0.7"}, 2), "already converted"),
        (b"\x80\x02" + b"(" * 100_000 + b".", "damaged pickle|expected a dict"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "damaged pickle"),
        (b"\x80\x02\x8a\xff" + b"\xff" * 10 + b".", "damaged pickle"),
    ],
)
def test_impossible_tensors(tmp_path, program, message):
    path = tmp_path / "m.pth"
    path.write_bytes(_archive(program))
    tracemalloc.start()
    with pytest.raises(weights.WeightsError, match=message):
        _open_and_read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MEMORY


def test_zip_bombs(tmp_path):
    path = tmp_path / "m.pth"
    zeros = bytes(64 << 20)
    path.write_bytes(
        _archive(_pickled_tensor((4,), (1,)), compression=zipfile.ZIP_DEFLATED, data=zeros)
    )
    assert path.stat().st_size < 1 << 20
    with pytest.raises(weights.WeightsError, match="is compressed"):
        weights.open_weights(path)
    # Many tensors that share one storage describe more than the file holds.
    shared = {f"blocks.{i}.w": np.zeros(1 << 18, np.float32) for i in range(40)}
    program = pth._describe(in_memory(shared))
    for index in range(40):
        program = program.replace(pth._text(str(index)), pth._text("0"))
    path.write_bytes(_archive(program, data=bytes(1 << 20)))
    with pytest.raises(weights.WeightsError, match="but describes"):
        weights.open_weights(path)
    # A description that is itself huge.
    path.write_bytes(_archive(b"\x80\x02" + b"N0" * (9 << 20)))
    with pytest.raises(weights.WeightsError, match="more than"):
        weights.open_weights(path)


def test_archives_in_several_volumes(files, tmp_path):
    """The zip library raises an error of its own for these, already when asked what a file is."""
    data = bytearray((files / "zip.pth").read_bytes())
    data[data.rfind(b"PK\x06\x07") + 16] = 9  # number of disks
    assert not _attempt(tmp_path / "file", bytes(data))


def _header(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_header({"w": _entry([2**62, 2**62], 0, 8)}, bytes(8)), "needs bytes"),
        (_header({"w": _entry([1], 0, 8)}, bytes(8)), "does not fill"),
        (_header({"w": _entry([-2], 0, 8)}, bytes(8)), "is empty"),
        (_header({"w": _entry([2.0], 0, 8)}, bytes(8)), "impossible shape"),
        (_header({"w": _entry(["a"], 0, 8)}, bytes(8)), "impossible shape"),
        (_header({"w": _entry([True], 0, 4)}, bytes(4)), "impossible shape"),
        (_header({"w": _entry([2], 0, 8, "I64")}, bytes(8)), "dtype 'I64'"),
        (_header({"w": _entry([2], 0, 8, ["F32"])}, bytes(8)), "dtype"),
        (_header({"w": _entry([2], 4, 12)}, bytes(12)), "overlaps or leaves a gap"),
        (_header({"w": _entry([2], 0, 8)}, bytes(9)), "truncated or damaged"),
        (_header({"v": _entry([1], 0, 4), "w": _entry([1], 0, 4)}, bytes(8)), "overlaps"),
        (_header({"w": 5}), "expected dtype, shape, data_offsets"),
        (_header({"w": _entry([1], "0", 4)}, bytes(4)), "damaged byte range"),
        (_header(b'{"w": 1, "w": 2}'), "occurs twice"),
        (_header(b'{"a":' + b"[" * 100_000), "not JSON"),
        (_header(b'{"name": "\xff"}'), "not JSON"),
        (struct.pack("<Q", 2**60) + b"{" + bytes(99), "unknown kind of file|not a safetensors"),
        (b"", "holds no weights"),
        (b"hello world, this is no file of weights", "unknown kind of file"),
    ],
)
def test_damaged_safetensors(tmp_path, data, message):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(weights.WeightsError, match=message):
        weights.open_weights(path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"w": "../secret.safetensors"}}, "plain name"),
        ({"weight_map": {"w": "/etc/passwd"}}, "plain name"),
        ({"weight_map": {"w": "gone.safetensors"}}, "is missing"),
        ({"weight_map": {"w": 5}}, "expected a weight_map"),
        ({"weight_map": ["w"]}, "expected a weight_map"),
        ({}, "expected a weight_map"),
        ({"weight_map": {"other": "part.safetensors"}}, "disagree"),
    ],
)
def test_hostile_index(tmp_path, index, message):
    (tmp_path / "part.safetensors").write_bytes(_header({"w": _entry([1], 0, 4)}, bytes(4)))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(weights.WeightsError, match=message):
        weights.open_weights(tmp_path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        weights.load(tmp_path / "no.pth")
    with pytest.raises(FileNotFoundError, match="expected one of"):
        weights.load(tmp_path)
