# SPDX-License-Identifier: Apache-2.0
"""Loading a file of weights: time and memory, side by side with the peers in one run.

    python -m benchmarks.load_weights [--size=finch-1.6b] [--repeats=3] [--output=load.jsonl]

A synthetic bfloat16 model of that size is written to a temporary file (3.2 GB for 1.6B parameters;
removed afterwards), then loaded by each contender in a process of its own:

  rwkvjax         rwkvjax.load: matrices transposed and stacked, finiteness checked, jax arrays
  rwkvjax-4k      the same with NumPy's huge pages switched off: where the first touch of memory is
                  dear (some virtual machines), zeroing huge pages costs more than the load itself
  torch           torch.load(weights_only=True): the tensors as they lie in the file
  torch-mmap      torch.load(mmap=True), every page touched once (alone it reads nothing)
  rwkv            the official package, strategy "cpu bf16"
  read            reading the bytes of the file into one buffer, the speed of the disk

Contenders that are not installed are left out. Each repeat runs all of them in turns, with the file
dropped from the page cache ("cold") and kept in it ("warm"). Before each, a process touches twice
as much memory and frees it, since a virtual machine is slow at the first touch of memory. Reported
are medians: seconds on the clock, seconds of CPU, and the peak of resident memory above that after
the imports, relative to the size of the file.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from absl import app, flags

from rwkvjax import config as config_lib
from rwkvjax.weights import names, pth
from rwkvjax.weights.params import sizes_of_config
from rwkvjax.weights.source import Tensor, Tensors

_SIZE = flags.DEFINE_string("size", "finch-1.6b", "A published size, see rwkvjax.config.SIZES.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each contender.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_FOLDER = flags.DEFINE_string("folder", None, "Where the file is written; default: temporary.")

_MEASURE = """
import gc, os, sys, time
path = sys.argv[1]
{imports}
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
if {warm}:
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass
gc.collect()
before = status("VmRSS")
cpu, wall = time.process_time(), time.perf_counter()
{load}
print(time.perf_counter() - wall, time.process_time() - cpu, status("VmHWM") - before)
"""

_CONTENDERS = {
    "read": (
        "import numpy",
        """
buffer = numpy.empty(os.path.getsize(path), numpy.uint8)
with open(path, "rb", buffering=0) as file:
    view, done = memoryview(buffer), 0
    while done < len(view):
        done += file.readinto(view[done:])
""",
    ),
    "rwkvjax": (
        "import jax, rwkvjax; jax.devices()",
        "config, params = rwkvjax.load(path); jax.block_until_ready(params)",
    ),
    "torch": ("import torch", "tensors = torch.load(path, weights_only=True)"),
    "torch-mmap": (
        "import torch",
        """
tensors = torch.load(path, weights_only=True, mmap=True)
for tensor in tensors.values():
    tensor.flatten()[::2048].float().sum()
""",
    ),
    "rwkv": (
        """
os.environ.update(RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
from rwkv.model import RWKV
""",
        'model = RWKV(model=path, strategy="cpu bf16", verbose=False)',
    ),
}
_CONTENDERS["rwkvjax-4k"] = _CONTENDERS["rwkvjax"]
_CONTENDERS["read-4k"] = _CONTENDERS["read"]
_NEEDS = {"torch": ("torch",), "torch-mmap": ("torch",), "rwkv": ("rwkv", "torch")}


def synthetic(size: str) -> Tensors:
    """Tensors of that size in official layout, drawn when read."""
    cfg = config_lib.get_config(size)
    sizes = sizes_of_config(cfg)

    def tensor(shape: tuple[int, ...], seed: int) -> Tensor:
        def read() -> np.ndarray:
            # Random mantissas and signs with exponents around one: finite, and no zero pages.
            bits = np.random.default_rng(seed).integers(0, 1 << 16, math.prod(shape), np.uint16)
            return ((bits & 0x807F) | 0x3F00).view(ml_dtypes.bfloat16).reshape(shape)

        return Tensor(shape, np.dtype(ml_dtypes.bfloat16), read)

    listing = names.schema(cfg.version).listing(cfg.layers)
    return {
        name: tensor(entry.official_shape(sizes), seed)
        for seed, (name, entry, _) in enumerate(listing)
    }


def measure(name: str, path: Path, warm: bool) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak of additional memory in bytes) of one load."""
    touch = f"import numpy; numpy.ones({2 * path.stat().st_size}, numpy.uint8)"
    subprocess.run([sys.executable, "-c", touch], check=True)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    imports, load = _CONTENDERS[name]
    program = _MEASURE.format(imports=imports, load=load, warm=warm)
    huge_pages = "0" if name.endswith("-4k") else "1"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
        env=dict(os.environ, JAX_PLATFORMS="cpu", NUMPY_MADVISE_HUGEPAGE=huge_pages),
    )
    wall, cpu, peak = map(float, done.stdout.split()[-3:])
    return wall, cpu, peak


def main(argv: list[str]) -> None:
    """Writes the file, measures all contenders, prints the table and the JSON lines."""
    del argv
    found = importlib.util.find_spec
    contenders = [n for n in _CONTENDERS if all(found(m) for m in _NEEDS.get(n, ()))]
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        path = Path(folder) / "model.pth"
        tensors = synthetic(_SIZE.value)
        needed = sum(t.nbytes for t in tensors.values())
        if shutil.disk_usage(folder).free < 1.2 * needed:
            raise SystemExit(f"{folder} has too little room for {needed / 1e9:.1f} GB")
        with open(path, "wb") as file:
            pth.write_pth(file, tensors)
        size = path.stat().st_size
        runs: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
        for _ in range(_REPEATS.value):
            for warm in (False, True):
                for name in contenders:
                    runs.setdefault((name, warm), []).append(measure(name, path, warm))
    lines = []
    print(f"{_SIZE.value}, bfloat16, {size / 1e9:.2f} GB, medians of {_REPEATS.value}")
    print(f"{'':<15}{'cache':<7}{'wall s':>8}{'GB/s':>7}{'CPU s':>8}{'peak / file':>13}")
    for (name, warm), results in runs.items():
        wall, cpu, peak = (statistics.median(column) for column in zip(*results, strict=True))
        cache = "warm" if warm else "cold"
        print(
            f"{name:<15}{cache:<7}{wall:>8.2f}{size / wall / 1e9:>7.2f}{cpu:>8.2f}"
            f"{peak / size:>13.3f}"
        )
        lines.append(
            json.dumps(
                {
                    **{"benchmark": "load_weights", "size": _SIZE.value, "contender": name},
                    **{"cache": cache, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3)},
                    **{"bytes": size, "peak_bytes": int(peak), "repeats": _REPEATS.value},
                }
            )
        )
    print("\n".join(lines))
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
