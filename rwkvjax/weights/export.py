# SPDX-License-Identifier: Apache-2.0
"""Writing models in the formats of others (and our own), streaming and atomically."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core import files
from rwkvjax.config import Config
from rwkvjax.weights import fla, hf, names, pth, safetensors_file
from rwkvjax.weights.infer import infer
from rwkvjax.weights.load import OFFICIAL_GROUP_NORM_EPS, open_weights
from rwkvjax.weights.params import from_official, official_tensors
from rwkvjax.weights.source import (
    Tensor,
    Tensors,
    WeightsError,
    all_finite,
    cast,
    dtype_name,
    dtype_named,
    reshaped,
)

FORMATS = ("pth", "safetensors", "hf", "fla", "checkpoint")
_SHARD_BYTES = 5 * 10**9


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
      version, sizes: the model, sizes by the letters of `names`.
      parameters: number of parameters.
      renamed: official name -> name in the result (None: not needed there).
      dtypes: (dtype read, dtype written) -> number of tensors.
      notes: what the user should know.
    """

    version: str
    sizes: dict[str, int]
    parameters: int
    renamed: dict[str, str | None]
    dtypes: dict[tuple[str, str], int]
    notes: tuple[str, ...]

    def text(self, *, all_names: bool = False) -> str:
        """A readable account."""
        changed = sum(new != old for old, new in self.renamed.items())
        lines = [
            f"RWKV-{self.version}, {self.parameters:,} parameters, {len(self.renamed)} tensors, "
            f"{changed} under another name",
            *(f"  {count} tensors {old} -> {new}" for (old, new), count in self.dtypes.items()),
            *(f"note: {note}" for note in self.notes),
        ]
        if all_names:
            lines += [f"  {old} -> {new or '(left out)'}" for old, new in self.renamed.items()]
        return "\n".join(lines)


def canonical(tensors: Tensors, *, strict: bool = True) -> tuple[str, dict[str, int], Tensors]:
    """(version, sizes, tensors in official order and shape) of a complete model."""
    version, sizes = infer({n: t.shape for n, t in tensors.items()}, strict=strict)
    ordered: Tensors = {}
    for name, entry, _ in names.schema(version).listing(sizes["L"]):
        if name in tensors:
            shape = entry.official_shape(sizes)
            tensor = tensors[name]
            ordered[name] = tensor if tensor.shape == shape else reshaped(tensor, *shape)
    return version, sizes, ordered


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file name asks for; ValueError where it could be any."""
    known = {".safetensors": "safetensors", ".pth": "pth", ".pt": "pth"}
    found = known.get(Path(path).suffix)
    if found is None:
        raise ValueError(
            f"the name {os.fspath(path)!r} does not say what to write: expected one that ends in"
            f" {', '.join(known)}, or a format, one of {', '.join(FORMATS)}"
        )
    return found


def save(
    path: str | os.PathLike[str],
    config: Config,
    params: Mapping[str, Any],
    *,
    format: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> Report:
    """Writes our parameters in another format; see `write` for the arguments.

    Without `format` the name decides, see `format_of`.
    """
    return write(
        path,
        official_tensors(config, params),
        format=format or format_of(path),
        dtype=dtype,
        overwrite=overwrite,
        group_norm_eps=config.group_norm_eps,
    )


def write(
    path: str | os.PathLike[str],
    tensors: Tensors,
    *,
    format: str,
    dtype: str | None = None,
    strict: bool = True,
    overwrite: bool = False,
    shard_bytes: int = _SHARD_BYTES,
    group_norm_eps: float = OFFICIAL_GROUP_NORM_EPS,
    verify: bool = True,
) -> Report:
    """Writes a model given as official tensors, one tensor at a time.

    Args:
      path: destination. A file for "pth" and "safetensors"; a folder for "hf" (Hugging Face layout
        with config.json), "fla" (flash-linear-attention) and "checkpoint" (this library's own,
        which is built in memory).
      tensors: official name -> tensor.
      format: one of `FORMATS`.
      dtype: dtype of all tensors written; the default keeps each one's.
      strict: raise for tensors that no RWKV model has, instead of leaving them out.
      overwrite: replace what is at `path`.
      shard_bytes: largest size of one file of "hf" and "fla".
      group_norm_eps: epsilon that the model was made for; no format of others can hold it.
      verify: read the result again and compare every value.

    Raises:
      ValueError: unknown format or dtype, a version that the format has no place for.
      FileExistsError: `path` exists and `overwrite` is false.
      WeightsError: incomplete model, or values that are not finite (in the dtype written).
      OSError: the disk is full; nothing is left behind.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name or allow overwriting")
    version, sizes, ordered = canonical(tensors, strict=strict)
    source = ordered
    if dtype is not None:
        target = dtype_named(dtype)
        ordered = {name: cast(tensor, target) for name, tensor in ordered.items()}
    ordered = {name: _finite(name, tensor) for name, tensor in ordered.items()}
    layout, renamed, config = _layout(format, version, sizes, ordered)
    _WRITERS[format](path, layout, config, shard_bytes, group_norm_eps)
    if verify:
        _verify(path, format, ordered)
    notes = _notes(format, version, sizes, group_norm_eps)
    pairs = Counter(
        (dtype_name(source[name].dtype), dtype_name(tensor.dtype))
        for name, tensor in ordered.items()
    )
    parameters = sum(int(np.prod(t.shape)) for t in ordered.values())
    return Report(version, sizes, parameters, renamed, dict(pairs), notes)


def _notes(format: str, version: str, sizes: dict[str, int], eps: float) -> tuple[str, ...]:
    """What the reader of the result has to know that the format cannot hold."""
    notes = []
    if version != "4" and eps != OFFICIAL_GROUP_NORM_EPS and format != "checkpoint":
        notes.append(
            f"the model runs with group_norm_eps={eps:g}, readers of this format use "
            f"{OFFICIAL_GROUP_NORM_EPS:g}"
        )
    if version == "6" and format == "fla":
        notes.append("set attn.g_norm.eps = 64e-5 on every layer after loading; fla's own is 1e-5")
    usual = (64, 128) if sizes["D"] == 4096 else (32, 64)
    if version == "6" and format == "hf" and (sizes["R"], sizes["P"]) != usual:
        notes.append(f"Hugging Face's class has LoRA ranks {usual} built in, this model others")
    return tuple(notes)


def _finite(name: str, tensor: Tensor) -> Tensor:
    def read() -> np.ndarray:
        array = tensor.read()
        if not all_finite(array):
            raise WeightsError(f"{name} holds NaN or infinite values as {tensor.dtype}")
        return array

    return Tensor(tensor.shape, tensor.dtype, read)


def _layout(
    format: str, version: str, sizes: dict[str, int], tensors: Tensors
) -> tuple[Tensors, dict[str, str | None], dict[str, Any]]:
    """(tensors as stored, official name -> stored name, config.json)."""
    dtype = Counter(dtype_name(t.dtype) for t in tensors.values()).most_common(1)[0][0]
    if format == "hf":
        config = hf.config_json(version, sizes, dtype)
        return hf.to_hf(tensors), {name: hf.hf_name(name) for name in tensors}, config
    if format == "fla":
        layout = fla.to_fla(version, tensors)
        renamed = {name: fla.fla_name(version, name) for name in tensors}
        return layout, renamed, fla.config_json(version, sizes, dtype)
    return tensors, {name: name for name in tensors}, {}


def _write_pth(path: Path, tensors: Tensors, *_: Any) -> None:
    with files.atomic_write(path) as file:
        pth.write_pth(file, tensors)


def _write_safetensors(path: Path, tensors: Tensors, *_: Any) -> None:
    with files.atomic_write(path) as file:
        safetensors_file.write_safetensors(file, tensors, {"format": "pt"})


def _write_folder(
    path: Path, tensors: Tensors, config: dict[str, Any], shard_bytes: int, _: float
) -> None:
    with _atomic_folder(path) as folder:
        safetensors_file.write_sharded(
            folder, tensors, max_bytes=shard_bytes, metadata={"format": "pt"}
        )
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_checkpoint(
    path: Path, tensors: Tensors, _: dict[str, Any], __: int, group_norm_eps: float
) -> None:
    from core import checkpoint

    config, params = from_official(tensors, group_norm_eps=group_norm_eps)
    with _atomic_folder(path) as folder:
        saver = checkpoint.Checkpointer(folder, keep=0, asynchronous=False)
        try:
            meta = {"config": {"model": dataclasses.asdict(config)}, "step": 0}
            saver.save(0, params, {"step": np.zeros((), np.int32)}, meta)
            saver.wait()
        finally:
            saver.close()


_WRITERS = {
    "pth": _write_pth,
    "safetensors": _write_safetensors,
    "hf": _write_folder,
    "fla": _write_folder,
    "checkpoint": _write_checkpoint,
}


@contextlib.contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of `path` only when the body ends well."""
    path = path.absolute()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: folder {path.parent} does not exist")
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary, old = (path.with_name(f".{path.name}.{token}.{end}") for end in ("tmp", "old"))
    try:
        with files.explain_full_disk(path):
            temporary.mkdir()
            yield temporary
        if path.exists():  # two renames: the only moment without a folder lies between them
            os.rename(path, old)
        os.rename(temporary, path)
        files.sync_directory(path.parent)
    finally:
        for leftover in (temporary, old):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            elif leftover.exists():
                leftover.unlink()


def _verify(path: Path, format: str, written: Tensors) -> None:
    """Reads the result with the public readers and compares bit by bit."""
    if format == "checkpoint":
        from rwkvjax import checkpoints

        config, params = checkpoints.load(path)
        found = official_tensors(config, params)
    else:
        found = canonical(open_weights(path).tensors)[2]
    for name, tensor in written.items():
        if name not in found:
            if name.startswith("blocks.0.att.v") and format == "fla":
                continue  # the unused value LoRA of the first RWKV-7 block
            raise WeightsError(f"{path}: {name} is missing from the file just written")
        got = found[name]
        same = (got.shape, got.dtype) == (tensor.shape, tensor.dtype)
        if not same or got.read().tobytes() != tensor.read().tobytes():
            raise WeightsError(f"{path}: {name} does not read back as it was written")
