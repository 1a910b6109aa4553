# SPDX-License-Identifier: Apache-2.0
"""World tokenizers side by side: speed, start-up time and memory, all in one run.

    python -m benchmarks.tokenizer [--repeats=10] [--output=tokenizer.jsonl]

Peers: the trie of the official package `rwkv` (pure Python, read by path, so PyTorch is not
needed) and `pyrwkv-tokenizer` (Rust); those that are not installed are left out. The corpus is
what every machine has, the sources of Python's standard library, and the multilingual sets `udhr`
and `ud_pud` where the data folder has them. Every implementation must give the same ids first.

Speeds are megabytes of UTF-8 per second of CPU time of the whole process, medians over the
repeats; `wall` is per second on the clock, which is what threads improve.
"""

import gc
import gzip
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

from core.datasets import find_dataset
from rwkvjax.tokenizers import WorldTokenizer, find_world_file, load_vocabulary
from rwkvjax.tokenizers.greedy import encode_reference

_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed runs of each case (slow Python: 3).")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_CODE_BYTES = 1_500_000
_LONG_BYTES = 16_000_000

# Construction in a fresh process, after the imports that any user of it has paid anyway.
_LOAD = """
import gc, os, resource, sys, time
import numpy
{imports}
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
gc.collect()
before, cpu, wall = resident(), time.process_time(), time.perf_counter()
tokenizer = {make}
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
gc.collect()
print(cpu, wall, resident() - before)
"""


def official_module():
    """The official package's tokenizer file, executed by path, or None."""
    spec = importlib.util.find_spec("rwkv")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "rwkv_tokenizer.py"
        if path.is_file():
            file_spec = importlib.util.spec_from_file_location("official_tokenizer", path)
            assert file_spec is not None and file_spec.loader is not None
            module = importlib.util.module_from_spec(file_spec)
            file_spec.loader.exec_module(module)
            return module, path
    return None, None


def corpora() -> dict[str, str]:
    """Texts by name; only "code" is on every machine."""
    texts: dict[str, str] = {}
    code = ""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        code += path.read_text(encoding="utf-8", errors="replace")
        if len(code) > _CODE_BYTES:
            break
    texts["code"] = code
    try:
        with zipfile.ZipFile(find_dataset("udhr") / "udhr_shared.zip") as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".txt"))
            texts["udhr"] = "\n".join(archive.read(n).decode("utf-8") for n in names)
        with gzip.open(find_dataset("ud_pud") / "pud_parallel_train.jsonl.gz", "rt") as file:
            rows = [json.loads(line) for line in file]
        texts["english"] = "\n".join(row["en"] for row in rows)
        texts["chinese"] = "\n".join(row["zh"] for row in rows)
        texts["pud"] = "\n".join(v for row in rows for k, v in row.items() if k != "id")
    except FileNotFoundError as error:
        print(f"left out: {error}", file=sys.stderr)
    joined = "\n".join(t for name, t in texts.items() if name in ("code", "udhr", "pud"))
    return {**texts, "all": joined}


def implementations() -> dict[str, tuple[Callable, Callable | None]]:
    """Encoders (text -> ids) and decoders (ids -> text) by name, slowest first."""
    found: dict[str, tuple[Callable, Callable | None]] = {}
    module, path = official_module()
    if module is not None:
        vocabulary = path.with_name(find_world_file().name)
        load_vocabulary(vocabulary)  # that code evaluates the file, so its digest comes first
        trie = module.TRIE_TOKENIZER(str(vocabulary))
        found["rwkv (Python)"] = (trie.encode, trie.decode)
    else:
        tokens = load_vocabulary().tokens()
        found["definition (Python)"] = (lambda text: encode_reference(tokens, text.encode()), None)
    slow = WorldTokenizer.load(native=False)
    found["ours, NumPy"] = (slow.encode, slow.decode)
    if importlib.util.find_spec("pyrwkv_tokenizer"):
        import pyrwkv_tokenizer

        rust = pyrwkv_tokenizer.RWKVTokenizer()
        found["pyrwkv (Rust)"] = (rust.encode, rust.decode)
    fast = WorldTokenizer.load(native=True, threads=1)
    found["ours, C, to list"] = (lambda text: fast.encode(text).tolist(), None)
    found["ours, C"] = (fast.encode, fast.decode)
    return found


def measure(function: Callable, argument, num_bytes: int, repeats: int) -> dict:
    """Median and quartiles of MB per CPU second, and the median per second on the clock."""
    function(argument)
    cpu, wall = [], []
    for _ in range(repeats):
        start, clock = time.process_time(), time.perf_counter()
        function(argument)
        cpu.append(num_bytes / 1e6 / (time.process_time() - start))
        wall.append(num_bytes / 1e6 / (time.perf_counter() - clock))
    low, _, high = statistics.quantiles(cpu, n=4) if repeats > 1 else cpu * 3
    return {
        "mb_per_cpu_s": round(statistics.median(cpu), 2),
        "quartiles": [round(low, 2), round(high, 2)],
        "mb_per_wall_s": round(statistics.median(wall), 2),
        "repeats": repeats,
    }


def speed_rows(texts: dict[str, str], repeats: int) -> list[dict]:
    """Encoding of each corpus, of all lines one by one, and decoding."""
    coders, rows = implementations(), []
    gc.collect()
    gc.freeze()  # else whoever returns lists pays for walks through the Python trie's objects
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    lines = texts["all"].splitlines(keepends=True)
    for corpus, text in texts.items():
        expected = coders["ours, C"][0](text)
        for name, (encode, _) in coders.items():
            if not np.array_equal(np.asarray(encode(text)), expected):
                raise AssertionError(f"{name} gives other ids on {corpus}")
            runs = min(repeats, 3) if "(Python)" in name else repeats
            row: dict = {"measure": "encode", "corpus": corpus, "implementation": name}
            row |= {"bytes": sizes[corpus], "tokens": int(expected.size)}
            rows.append(row | measure(encode, text, sizes[corpus], runs))
    ids = coders["ours, C"][0](texts["all"])
    for name, (encode, decode) in coders.items():
        runs = min(repeats, 3) if "(Python)" in name else repeats
        each = measure(lambda _, f=encode: [f(x) for x in lines], None, sizes["all"], runs)
        row = {"corpus": "all", "implementation": name, "bytes": sizes["all"]}
        rows.append({"measure": "encode each line", "lines": len(lines)} | row | each)
        if decode is not None:
            argument = ids if name.startswith("ours") else ids.tolist()
            assert decode(argument) == texts["all"]
            rows.append({"measure": "decode"} | row | measure(decode, argument, sizes["all"], runs))
    return rows


def parallel_rows(text: str, repeats: int) -> list[dict]:
    """One long document by one thread and by several; the Rust peer gets it cut into lines."""
    size = len(text.encode())
    text *= max(1, _LONG_BYTES // size)
    size = len(text.encode())
    one = WorldTokenizer.load(native=True, threads=1)
    cases: dict[str, tuple[Callable, object]] = {"ours, C, 1 thread": (one.encode, text)}
    for threads in sorted({2, os.cpu_count() or 2}):
        many = WorldTokenizer(one.vocabulary, native=True, threads=threads)
        assert np.array_equal(many.encode(text), one.encode(text))
        cases[f"ours, C, {threads} threads"] = (many.encode, text)
    if importlib.util.find_spec("pyrwkv_tokenizer"):
        import pyrwkv_tokenizer

        rust = pyrwkv_tokenizer.RWKVTokenizer()
        cases["pyrwkv (Rust), encode_batch"] = (rust.encode_batch, text.splitlines(keepends=True))
    return [
        {"measure": "long document", "corpus": "all", "implementation": name, "bytes": size}
        | measure(function, argument, size, min(repeats, 5))
        for name, (function, argument) in cases.items()
    ]


def load_rows() -> list[dict]:
    """Start-up time and memory of each, in processes of their own."""
    ours = "from rwkvjax.tokenizers import WorldTokenizer"
    cases = {
        "ours, NumPy": (ours, "WorldTokenizer.load(native=False); tokenizer._table.columns"),
        "ours, C": (ours, "WorldTokenizer.load(native=True)"),
        "ours, C, first use (compiles)": (ours, "WorldTokenizer.load(native=True)"),
    }
    if importlib.util.find_spec("pyrwkv_tokenizer"):
        cases["pyrwkv (Rust)"] = ("import pyrwkv_tokenizer", "pyrwkv_tokenizer.RWKVTokenizer()")
    _, path = official_module()
    if path is not None:
        vocabulary = str(path.with_name(find_world_file().name))
        imports = f"import sys; sys.path.insert(0, {str(path.parent)!r}); import rwkv_tokenizer"
        cases["rwkv (Python)"] = (imports, f"rwkv_tokenizer.TRIE_TOKENIZER({vocabulary!r})")
    rows = []
    for name, (imports, make) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(os.environ, **({"RWKVJAX_CACHE": folder} if "first" in name else {}))
            code = _LOAD.format(imports=imports, make=make)
            runs = []
            for _ in range(1 if "first" in name else 3):
                result = subprocess.run(
                    [sys.executable, "-c", code],
                    env=environment,
                    check=True,
                    capture_output=True,
                    text=True,
                )
                runs.append([float(x) for x in result.stdout.split()])
        cpu, wall, memory = (statistics.median(column) for column in zip(*runs, strict=True))
        row = {"measure": "load", "implementation": name, "cpu_s": round(cpu, 3)}
        rows.append(row | {"wall_s": round(wall, 3), "resident_mb": round(memory / 1e6, 1)})
    return rows


def table_memory() -> dict:
    """Bytes that the tables of a tokenizer hold."""
    tokenizer = WorldTokenizer.load(native=False)
    vocabulary, table = tokenizer.vocabulary, tokenizer._table
    compiled = table.nbytes + tokenizer._cut_pairs.nbytes + vocabulary.lengths.nbytes
    compiled += vocabulary.data.nbytes + vocabulary.offsets.nbytes
    columns = sum(column.nbytes for column in table.columns)
    row = {"measure": "tables", "slots": int(table.slots.size)}
    return row | {"compiled_mb": compiled / 1e6, "numpy_mb": (compiled + columns) / 1e6}


def print_table(rows: list[dict]) -> None:
    """The rows for people, on standard error so that standard output stays JSON lines."""
    for row in rows:
        if row["measure"] == "load":
            numbers = f"{row['cpu_s']:8.3f} CPU s {row['wall_s']:8.3f} s wall"
            numbers += f" {row['resident_mb']:6.1f} MB resident"
        elif row["measure"] == "tables":
            numbers = f"{row['compiled_mb']:8.2f} MB compiled {row['numpy_mb']:8.2f} MB NumPy"
        else:
            numbers = f"{row['mb_per_cpu_s']:8.2f} MB/CPU s {row['mb_per_wall_s']:8.2f} MB/s wall"
        name = row.get("implementation", "")
        print(
            f"{row['measure']:17s} {row.get('corpus', ''):8s} {name:30s} {numbers}", file=sys.stderr
        )


def main(_) -> None:
    """Runs everything and prints it."""
    about = {
        "benchmark": "tokenizer",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    texts = corpora()
    rows = [*load_rows(), table_memory(), *speed_rows(texts, _REPEATS.value)]
    rows += parallel_rows(texts["all"], _REPEATS.value)
    lines = "".join(json.dumps(about | row) + "\n" for row in rows)
    print(lines, end="")
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(lines, encoding="utf-8")
    print_table(rows)


if __name__ == "__main__":
    app.run(main)
