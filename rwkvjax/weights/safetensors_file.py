# SPDX-License-Identifier: Apache-2.0
"""safetensors files, single or sharded, read and written one tensor at a time.

Layout: the length of the header (8 bytes, little-endian), the header (JSON: name -> dtype, shape
and byte range), then the values without gaps. Shards are such files listed in an index
`*.safetensors.index.json` whose "weight_map" says which file holds which tensor. The format is
small enough to parse here, with every number checked against the length of the file.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rwkvjax.weights import bounded
from rwkvjax.weights.source import BFLOAT16, Tensors, WeightsError

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "F64": np.dtype(np.float64),
}
_INTEGERS = {"I8": np.dtype(np.int8), "U8": np.dtype(np.uint8)}  # only of quantised matrices
_NAMES = {dtype: name for name, dtype in {**_DTYPES, **_INTEGERS}.items()}
_MAX_HEADER = 100 << 20  # the limit of the reference implementation
INDEX = "model.safetensors.index.json"


def _header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """(header, position of the first value) of one file."""
    size = bounded.file_size(path)
    (length,) = struct.unpack("<Q", bounded.read_bytes(path, "the header length", 0, 8))
    if length > min(_MAX_HEADER, size - 8):
        raise WeightsError(f"{path}: not a safetensors file: a header of {length} bytes in {size}")
    return parse_json(path, bounded.read_bytes(path, "the header", 8, length)), 8 + length


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The "__metadata__" entry of one file; raises WeightsError for anything but strings."""
    metadata = _header(path)[0].get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WeightsError(f"{path}: expected metadata of strings, got {metadata!r:.200}")
    return metadata


def read_safetensors(path: str | os.PathLike[str], *, integers: bool = False) -> Tensors:
    """The tensors of one file by name, read on demand; raises WeightsError for damage.

    Args:
      path: the file.
      integers: allow 8-bit integers too, which no file of plain weights holds.
    """
    size = bounded.file_size(path)
    header, start = _header(path)
    header.pop("__metadata__", None)
    dtypes = {**_DTYPES, **_INTEGERS} if integers else _DTYPES
    spans: list[tuple[int, int, str]] = []
    tensors: Tensors = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry, dtypes)
        tensors[name] = bounded.stored_tensor(path, name, start + begin, shape, dtype)
        if end - begin != tensors[name].nbytes:
            raise WeightsError(f"{path}: {name!r:.100}: {shape=} does not fill its byte range")
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise WeightsError(f"{path}: the byte range of {name!r:.100} overlaps or leaves a gap")
        position = end
    if start + position != size:
        raise WeightsError(
            f"{path} is truncated or damaged: {start + position} bytes described, {size} there"
        )
    return tensors


def parse_json(path: Any, data: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys; raises WeightsError for anything else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise WeightsError(f"{path}: a name occurs twice in its header")
        return found

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its header is not JSON: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _entry(
    path: Any, name: str, entry: Any, dtypes: dict[str, np.dtype]
) -> tuple[np.dtype, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(
            f"{path}: {name!r:.100}: expected dtype, shape, data_offsets: {entry!r:.200}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise WeightsError(
            f"{path}: {name!r:.100} has dtype {dtype!r:.40}; weights are {[*dtypes]}"
        )
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise WeightsError(f"{path}: {name!r:.100}: damaged {entry!r:.200}")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in offsets):
        raise WeightsError(f"{path}: {name!r:.100}: damaged byte range {offsets!r:.100}")
    bounded.check_shape(name, tuple(shape))
    return dtypes[dtype], tuple(shape), offsets[0], offsets[1]


def read_index(
    path: str | os.PathLike[str], read_shard: Callable[[Path], Tensors] = read_safetensors
) -> Tensors:
    """The tensors of all shards that an index file lists.

    Shards must lie in the folder of the index; names with folders in them are refused.
    """
    path = Path(path)
    size = bounded.file_size(path)
    if size > _MAX_HEADER:
        raise WeightsError(f"{path}: an index of {size} bytes")
    mapping = parse_json(path, bounded.read_bytes(path, "the index", 0, size)).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(f, str) for f in mapping.values()):
        raise WeightsError(f"{path}: expected a weight_map of tensor names to file names")
    shards: dict[str, Tensors] = {}
    for file in sorted(set(mapping.values())):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", file):
            raise WeightsError(f"{path}: {file!r:.100} is not the plain name of a shard")
        if not (path.parent / file).is_file():
            raise WeightsError(f"{path}: shard {file} is missing")
        shards[file] = read_shard(path.parent / file)
    listed = {(name, file) for name, file in mapping.items()}
    held = {(name, file) for file, tensors in shards.items() for name in tensors}
    if listed != held:
        odd = sorted(listed ^ held)[:3]
        raise WeightsError(f"{path}: the index and its shards disagree, for instance about {odd}")
    return {name: shards[file][name] for name, file in mapping.items()}


def write_safetensors(file: Any, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Writes one file, reading one tensor at a time.

    Args:
      file: binary file open for writing.
      tensors: name -> tensor; the order is kept.
      metadata: strings for the "__metadata__" entry.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise ValueError(
                f"{name}: safetensors weights are {[*_NAMES.values()]}, got {tensor.dtype}"
            )
        end = position + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for tensor in tensors.values():
        values = np.ascontiguousarray(tensor.read())
        if values.nbytes != tensor.nbytes:
            raise ValueError(
                f"a tensor of {tensor.shape} {tensor.dtype} gave {values.nbytes} bytes"
            )
        file.write(values.reshape(-1).view(np.uint8).data)


def plan_shards(tensors: Tensors, max_bytes: int) -> list[Tensors]:
    """Splits tensors, in order, into groups of at most `max_bytes` (or one larger tensor)."""
    groups: list[Tensors] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if groups[-1] and filled + tensor.nbytes > max_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += tensor.nbytes
    return groups


def write_sharded(
    folder: Path, tensors: Tensors, *, max_bytes: int, metadata: dict[str, str] | None = None
) -> None:
    """Writes model.safetensors, or numbered shards with their index, into an existing folder."""
    groups = plan_shards(tensors, max_bytes)
    if len(groups) == 1:
        with open(folder / "model.safetensors", "xb") as file:
            write_safetensors(file, groups[0], metadata)
        return
    mapping: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        with open(folder / name, "xb") as file:
            write_safetensors(file, group, metadata)
        mapping |= dict.fromkeys(group, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": mapping}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
