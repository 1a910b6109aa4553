# SPDX-License-Identifier: Apache-2.0
"""PyTorch `.pth` files, read and written without PyTorch.

Two layouts exist. The current one is an uncompressed zip archive with `data.pkl` (a pickle that
describes the tensors) and one file of raw values for each storage; the legacy one (before
torch 1.6) is a row of pickles followed by the storages. In both, the description is parsed by
`pickles`, which can build nothing but descriptions of tensors.
"""

from __future__ import annotations

import math
import os
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

from rwkvjax.weights import bounded, pickles
from rwkvjax.weights.source import DTYPES, Tensor, Tensors, WeightsError

_MAX_PICKLE = 16 << 20  # a model of 14B parameters needs 0.3 MiB
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ZIP_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s22xHH")

# Storage key -> (offset in the file, number of bytes).
Places = dict[str, tuple[int, int]]


def read_pth(path: str | os.PathLike[str]) -> Tensors:
    """The tensors of a `.pth` file by name, read on demand.

    Raises:
      FileNotFoundError: no such file.
      WeightsError: not a PyTorch file, damaged, hostile, or already converted by the rwkv package.
    """
    zipped = bounded.read_bytes(path, "the first bytes", 0, 4) == ZIP_MAGIC
    content, places = _read_zip(path) if zipped else _read_legacy(path)
    return _tensors(path, _state_dict(path, content), places)


def _state_dict(path: Any, content: Any) -> dict[str, pickles.StoredTensor]:
    """The name -> tensor dict, which trainers sometimes wrap one level deep."""
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    if "_strategy" in content:
        raise WeightsError(
            f"{path} was already converted by the rwkv package for strategy "
            f"{content['_strategy']!r:.80}: its matrices are transposed and its first norm is "
            "folded into the embedding. Use the original .pth file."
        )
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, pickles.StoredTensor):
            raise WeightsError(
                f"{path}: expected a dict of tensors; {name!r:.80} is {type(tensor).__name__}"
            )
    if not content:
        raise WeightsError(f"{path} holds no tensors")
    return content


def _tensors(path: Any, described: dict[str, pickles.StoredTensor], places: Places) -> Tensors:
    tensors = {name: _tensor(path, name, tensor, places) for name, tensor in described.items()}
    total, size = sum(t.nbytes for t in tensors.values()), bounded.file_size(path)
    if total > 2 * size + (1 << 20):
        raise WeightsError(f"{path} has {size} bytes but describes {total} bytes of tensors")
    return tensors


def _tensor(path: Any, name: str, tensor: pickles.StoredTensor, places: Places) -> Tensor:
    storage, shape = tensor.storage, tensor.shape
    if storage.dtype not in DTYPES.values():
        raise WeightsError(f"{name}: weights are floating-point, this has {storage.dtype}")
    if storage.key not in places:
        raise WeightsError(
            f"{path}: the values of {name} are missing (storage {storage.key!r:.80})"
        )
    bounded.check_shape(name, shape)
    offset, nbytes = places[storage.key]
    count = nbytes // storage.dtype.itemsize
    span = sum((n - 1) * stride for n, stride in zip(shape, tensor.strides, strict=True)) + 1
    if min(tensor.strides, default=0) < 0 or tensor.offset < 0 or tensor.offset + span > count:
        raise WeightsError(f"{name}: shape {shape} reaches outside its storage of {count} elements")
    if math.prod(shape) > span:
        raise WeightsError(f"{name}: elements of the tensor overlap: {shape=} {tensor.strides=}")
    start = offset + tensor.offset * storage.dtype.itemsize
    if tensor.strides == _row_major(shape) or math.prod(shape) == 1:
        return bounded.stored_tensor(path, name, start, shape, storage.dtype)

    def read() -> np.ndarray:
        flat = np.empty(span, storage.dtype)
        bounded.read_into(path, name, start, flat)
        steps = tuple(stride * flat.itemsize for stride in tensor.strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, steps))

    return Tensor(shape, storage.dtype, read)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


# --- the zip layout ---------------------------------------------------------------------------


def _read_zip(path: Any) -> tuple[Any, Places]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError) as error:
        raise WeightsError(f"{path}: damaged archive: {error}") from error
    names = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(names) != 1:
        raise WeightsError(f"{path}: a zip archive, but not one of PyTorch (no data.pkl)")
    root = names[0].removesuffix("data.pkl")
    order = entries.get(root + "byteorder")
    if order is not None and _entry_bytes(path, order, 16) != b"little":
        raise WeightsError(f"{path}: written on a big-endian machine, which is not supported")
    content = pickles.parse(_entry_bytes(path, entries[names[0]], _MAX_PICKLE))
    places = {
        name.removeprefix(root + "data/"): _entry_range(path, info)
        for name, info in entries.items()
        if name.startswith(root + "data/")
    }
    return content, places


def _entry_range(path: Any, info: zipfile.ZipInfo) -> tuple[int, int]:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise WeightsError(f"{path}: {info.filename!r:.80} is compressed; PyTorch never does that")
    if info.flag_bits & 1:
        raise WeightsError(f"{path}: {info.filename!r:.80} is encrypted")
    header = bounded.read_bytes(path, "a zip header", info.header_offset, _LOCAL_HEADER.size)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    if magic != ZIP_MAGIC:
        raise WeightsError(f"{path}: damaged archive: no entry at byte {info.header_offset}")
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    bounded.check_range(path, info.filename[:80], start, info.file_size)
    return start, info.file_size


def _entry_bytes(path: Any, info: zipfile.ZipInfo, limit: int) -> bytes:
    start, count = _entry_range(path, info)
    if count > limit:
        raise WeightsError(f"{path}: {info.filename!r:.80} has {count} bytes, more than {limit}")
    return bounded.read_bytes(path, info.filename[:80], start, count)


# --- the legacy layout ------------------------------------------------------------------------


def _read_legacy(path: Any) -> tuple[Any, Places]:
    size = bounded.file_size(path)
    with open(path, "rb") as file:
        limited = _Limited(file, min(size, _MAX_PICKLE))
        try:
            magic = pickles.parse(limited)
        except WeightsError as error:
            raise WeightsError(f"{path}: not a PyTorch file ({error})") from error
        if magic != _LEGACY_MAGIC:
            raise WeightsError(f"{path}: not a PyTorch file")
        pickles.parse(limited)  # version of the protocol
        system = pickles.parse(limited)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise WeightsError(f"{path}: written on a big-endian machine, which is not supported")
        content = pickles.parse(limited)
        keys = pickles.parse(limited)
        position = file.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightsError(f"{path}: damaged: expected a list of storages")
    return content, _legacy_places(path, content, keys, position)


def _legacy_places(path: Any, content: Any, keys: list[str], position: int) -> Places:
    described = _state_dict(path, content).values()
    sizes = {t.storage.key: t.storage.dtype.itemsize for t in described}
    places: Places = {}
    for key in keys:
        (count,) = struct.unpack("<q", bounded.read_bytes(path, "a storage", position, 8))
        nbytes = count * sizes.get(key, 1)
        if key not in sizes and key is not keys[-1]:
            raise WeightsError(f"{path}: no tensor tells the element size of storage {key!r:.40}")
        bounded.check_range(path, "a storage", position + 8, nbytes)
        places[key] = (position + 8, nbytes)
        position += 8 + nbytes
    return places


class _Limited:
    """A binary file that pretends to end after `limit` bytes, as the pickle parser has no limit."""

    def __init__(self, file: Any, limit: int):
        self.file, self.left = file, limit

    def read(self, count: int = -1) -> bytes:
        if count < 0 or count > self.left:
            count = self.left
        data = self.file.read(count)
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self.file.readline(self.left)
        self.left -= len(data)
        return data

    def tell(self) -> int:
        return self.file.tell()


# --- writing ----------------------------------------------------------------------------------

_STORAGE_NAMES = {dtype: name for name, dtype in pickles.STORAGES.items()}
_ALIGNMENT = 64
_ZIP64_EXTRA = 20


def write_pth(file: Any, tensors: Tensors) -> None:
    """Writes tensors in the zip layout of `torch.save`, reading one at a time.

    Args:
      file: seekable binary file open for writing.
      tensors: name -> tensor; the order is kept.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _write_entry(archive, "archive/data.pkl", [_describe(tensors)])
        _write_entry(archive, "archive/byteorder", [b"little"])
        for index, tensor in enumerate(tensors.values()):
            _write_entry(archive, f"archive/data/{index}", _chunks(tensor))
        _write_entry(archive, "archive/version", [b"3\n"])


def _chunks(tensor: Tensor) -> Any:
    flat = np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8)
    if flat.nbytes != tensor.nbytes:
        raise ValueError(f"a tensor of {tensor.shape} {tensor.dtype} gave {flat.nbytes} bytes")
    step = 16 << 20
    return (flat[i : i + step].data for i in range(0, flat.nbytes, step))


def _write_entry(archive: zipfile.ZipFile, name: str, chunks: Any) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980, so that equal weights give equal files
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(name) + _ZIP64_EXTRA
    # An extra field of unknown kind is the official way to leave a gap before aligned data.
    gap = (-start - 4) % _ALIGNMENT
    info.extra = struct.pack("<HH", 0x4246, gap) + bytes(gap)
    with archive.open(info, "w", force_zip64=True) as entry:
        for chunk in chunks:
            entry.write(chunk)


def _describe(tensors: Tensors) -> bytes:
    """The pickle of {name: tensor}, in the form that torch.save gives it."""
    out = [b"\x80\x02}("]
    for index, (name, tensor) in enumerate(tensors.items()):
        if tensor.dtype not in _STORAGE_NAMES:
            raise ValueError(f"{name}: PyTorch has no storage for {tensor.dtype}")
        storage = _STORAGE_NAMES[tensor.dtype].encode()
        out += [
            _text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            *(_text("storage"), b"ctorch\n" + storage + b"\n", _text(str(index)), _text("cpu")),
            *(_integer(math.prod(tensor.shape)), b"tQ", _integer(0)),
            *(_tuple(tensor.shape), _tuple(_row_major(tensor.shape))),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
    return b"".join([*out, b"u."])


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    return pickle.dumps(number, protocol=2)[2:-1]


def _tuple(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(_integer(n) for n in numbers) + b"t"
