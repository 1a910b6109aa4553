# SPDX-License-Identifier: Apache-2.0
"""Says what this machine has, and which jobs would run here.

    python -m core.doctor
    python -m core.doctor --json

Versions, optional packages, devices with a tiny compiled computation on each backend, the compile
cache, data sets, and every configuration with what it still lacks. Nothing is changed or
downloaded. Exit status: 0 when the library works here, 1 when something that it always needs is
missing or broken, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from core import compile_cache, datasets, jobs

# Only the standard library and files that need nothing else are imported at the top: this program
# has to work where packages are missing.

OLDEST_PYTHON = (3, 11)
OK, BAD = "ok", "PROBLEM"


def has(module: str) -> bool:
    """Whether a module can be found, without importing it (but for its parent packages)."""
    try:
        return importlib.util.find_spec(module) is not None
    except Exception:  # a parent package that is missing, half-removed, or raises anything
        return False


def version_of(distribution: str) -> str:
    """Installed version of a distribution, "" if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def at_least(version: str, oldest: str) -> bool:
    """Compares release numbers: "0.10.2" is at least "0.10"."""
    numbers = lambda text: [*map(int, re.findall(r"\d+", text.split("+")[0])), 0, 0, 0][:3]
    return numbers(version) >= numbers(oldest)


def oldest_versions() -> dict[str, str]:
    """Distribution -> oldest version that this library takes, read from its own metadata."""
    try:
        wanted = importlib.metadata.requires("rwkvjax") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        wanted = _of_checkout()
    found = {}
    for line in wanted:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*>=\s*([0-9.]+)", line)
        if match and "extra ==" not in line:
            found[match[1].lower().replace("_", "-")] = match[2]
    return found


def _of_checkout() -> list[str]:
    import tomllib

    path = pathlib.Path(__file__).resolve().parents[1] / "pyproject.toml"
    try:
        return list(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return []


def check_required() -> list[dict[str, Any]]:
    """Python and the packages without which nothing trains."""
    python = platform.python_version()
    good = sys.version_info[:2] >= OLDEST_PYTHON
    rows = [{"name": "python", "version": python, "ok": good, "advice": ""}]
    if not good:
        rows[0]["advice"] = f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed"
    oldest = oldest_versions()
    pairs = [(d, m) for m, d in jobs.REQUIRED] + [("jaxlib", "jaxlib")]
    for distribution, module in pairs:
        if distribution == "grain" and sys.platform == "win32":
            continue
        version, need = version_of(distribution), oldest.get(distribution.replace("_", "-"), "0")
        row = {"name": distribution, "version": version, "ok": True, "advice": ""}
        if not has(module):
            row |= {"ok": False, "advice": f"missing: pip install {distribution!r}"}
        elif version and not at_least(version, need):
            row |= {"ok": False, "advice": f"too old: pip install '{distribution}>={need}'"}
        rows.append(row)
    return rows


def check_optional() -> list[dict[str, Any]]:
    """Optional packages: present, and what they enable."""
    return [
        {
            "name": p.distribution,
            "version": version_of(p.distribution),
            "ok": has(p.module),
            "extra": p.extra,
            "enables": p.enables,
        }
        for p in jobs.OPTIONAL
    ]


def check_devices() -> dict[str, Any]:
    """Devices of every backend, their memory, and a compiled product on each backend."""
    result: dict[str, Any] = {"ok": False, "backends": [], "advice": ""}
    try:
        import jax

        default = jax.default_backend()
        names = sorted({default, "cpu"})
        result["backends"] = [_check_backend(jax, name) for name in names]
        result["default"] = default
        result["ok"] = all(b["ok"] for b in result["backends"] if b["backend"] == default)
        result["advice"] = _unused_accelerator(default)
    except Exception as error:  # whatever a broken installation or driver raises
        result["advice"] = f"jax does not start: {_first_line(error)}"
    return result


def _check_backend(jax: Any, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"backend": name, "devices": [], "ok": False}
    try:
        for device in jax.local_devices(backend=name):
            stats = device.memory_stats() or {}
            entry = {"id": device.id, "kind": device.device_kind}
            if "bytes_limit" in stats:
                entry["memory_bytes"] = int(stats["bytes_limit"])
            row["devices"].append(entry)
        import jax.numpy as jnp

        start = time.perf_counter()
        with jax.default_device(jax.local_devices(backend=name)[0]):
            found = float(jax.jit(lambda x: (x @ x.T).sum())(jnp.ones((8, 4))))
        row |= {"seconds": round(time.perf_counter() - start, 3), "ok": found == 256.0}
        if found != 256.0:
            row["advice"] = f"a product of ones gave {found}, expected 256"
    except Exception as error:
        row["advice"] = _first_line(error)
    return row


def _unused_accelerator(default: str) -> str:
    """What to install where the machine has an accelerator that jax does not use."""
    if default != "cpu" or os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return ""
    if pathlib.Path("/dev/nvidia0").exists():
        return "there is an NVIDIA GPU that jax does not use: pip install 'jax[cuda12]'"
    if pathlib.Path("/dev/accel0").exists() or pathlib.Path("/dev/vfio/0").exists():
        return "there may be a TPU that jax does not use: pip install 'jax[tpu]'"
    return ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def check_cache() -> dict[str, Any]:
    """Where compiled programs are kept between runs, and whether that works."""
    folder = compile_cache.folder()
    row: dict[str, Any] = {"folder": str(folder), "programs": 0, "bytes": 0, "ok": True}
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        row |= {"ok": False, "advice": f"{existing} cannot be written: every start compiles anew"}
    if folder.is_dir():
        sizes = [f.stat().st_size for f in os.scandir(folder) if f.is_file()]
        row |= {"programs": sum(f.name.endswith("-cache") for f in os.scandir(folder))}
        row["bytes"] = sum(sizes)
    return row


def check_data() -> list[dict[str, Any]]:
    """Every data set: where it lies, or what is used instead."""
    rows = []
    for name, (use, instead) in jobs.DATA.items():
        try:
            rows.append({"name": name, "ok": True, "path": str(datasets.find_dataset(name))})
        except FileNotFoundError:
            rows.append({"name": name, "ok": False, "path": ""})
        rows[-1] |= {"use": use, "instead": instead}
    return rows


def check_jobs(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every configuration with what it lacks here."""
    data = {row["name"] for row in report["data"] if row["ok"]}
    accelerator = report["devices"].get("default", "cpu") != "cpu"
    works = report["devices"]["ok"] and all(row["ok"] for row in report["required"])
    by_module = {p.module: p for p in jobs.OPTIONAL}
    rows = []
    for job in jobs.JOBS:
        lacks = [] if works else ["a working jax and the required packages"]
        lacks += [f"data {name}" for name in job.data if name not in data]
        extras = {by_module[m].extra for m in (jobs.PICTURES, *job.modules) if not has(m)}
        lacks += [f"pip install 'rwkvjax[{extra}]'" for extra in sorted(extras)]
        if not (configs_folder() / f"{job.config}.py").is_file():
            lacks.append("the file: configurations lie in the checkout, not in the package")
        if job.accelerator and not accelerator:
            lacks.append("an accelerator")
        rows.append(
            {
                "program": job.program,
                "config": f"configs/{job.config}.py",
                "runs": not lacks,
                "lacks": lacks,
                "give": job.files,
            }
        )
    return rows


def configs_folder() -> pathlib.Path:
    """configs/ of the checkout this file lies in, or of the current folder."""
    here = pathlib.Path(__file__).resolve().parents[1] / "configs"
    return here if here.is_dir() else pathlib.Path("configs")


def host() -> dict[str, Any]:
    """Cores that this process may use, memory and disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    row: dict[str, Any] = {"system": platform.platform(), "cores": cores}
    try:
        row["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not on Windows
        pass
    row["disk_free_bytes"] = shutil.disk_usage(".").free
    return row


def examine() -> dict[str, Any]:
    """The whole report as plain data; "ok" is whether the library works here."""
    from core.version import __version__

    report: dict[str, Any] = {
        "version": __version__,
        "required": check_required(),
        "optional": check_optional(),
        "host": host(),
        "devices": check_devices(),
        "cache": check_cache(),
        "data": check_data(),
    }
    report["jobs"] = check_jobs(report)
    report["ok"] = report["devices"]["ok"] and all(row["ok"] for row in report["required"])
    return report


def as_text(report: dict[str, Any]) -> str:
    """The report for a reader."""
    lines = [f"rwkvjax {report['version']} on {report['host']['system']}", "", "required"]
    for row in report["required"]:
        mark = OK if row["ok"] else BAD
        lines.append(
            f"  {mark:8}{row['name']:18}{row['version'] or '-':12}{row['advice']}".rstrip()
        )
    lines += ["", "optional"]
    for row in report["optional"]:
        mark = OK if row["ok"] else "-"
        how = "" if row["ok"] else f"   pip install 'rwkvjax[{row['extra']}]'"
        what = f"{row['version'] or '-':12}{row['enables']}"
        lines.append(f"  {mark:8}{row['name']:33}{what}{how}")
    lines += _machine_lines(report)
    lines += [
        "",
        f"data (${datasets.ENVIRONMENT_VARIABLE} alone if set, else ../shared/data, shared/data,"
        " installed packages)",
    ]
    for row in report["data"]:
        where = row["path"] or (
            f"missing; instead: {row['instead']}" if row["instead"] else "missing"
        )
        lines.append(f"  {OK if row['ok'] else '-':8}{row['name']:20}{where} ({row['use']})")
    lines += ["", "would run here"]
    for row in report["jobs"]:
        needs = f"give {row['give']}" if row["give"] else ""
        why = "lacks " + ", ".join(row["lacks"]) if row["lacks"] else needs
        line = f"  {'yes' if row['runs'] else 'no':8}{row['config']:41}{row['program']:18}{why}"
        lines.append(line.rstrip())
    return "\n".join([*lines, "", _verdict(report)])


def _machine_lines(report: dict[str, Any]) -> list[str]:
    machine, devices, cache = report["host"], report["devices"], report["cache"]
    memory = _gib(machine["memory_bytes"]) if "memory_bytes" in machine else "unknown"
    free = _gib(machine["disk_free_bytes"])
    lines = ["", "machine", f"  {machine['cores']} cores, {memory} memory, {free} free disk here"]
    for row in devices["backends"]:
        first: dict[str, Any] = (row["devices"] or [{"kind": "no device"}])[0]
        size = f", {_gib(first['memory_bytes'])} each" if "memory_bytes" in first else ""
        default = " (default)" if row["backend"] == devices.get("default") else ""
        did = f"compiled and ran in {row['seconds']} s" if row["ok"] else row.get("advice", "")
        mark = OK if row["ok"] else BAD
        what = f"{row['backend']}{default}: {len(row['devices'])} x {first['kind']}{size}"
        lines.append(f"  {mark:8}{what}; {did}")
    if devices["advice"]:
        lines.append(f"  {OK if devices['ok'] else BAD:8}{devices['advice']}")
    size = f"{cache['programs']} programs, {cache['bytes'] / 2**20:.0f} MiB"
    note = cache.get("advice", size)
    return [
        *lines,
        f"  {OK if cache['ok'] else BAD:8}compiled programs in {cache['folder']}: {note}",
    ]


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _verdict(report: dict[str, Any]) -> str:
    runs = sum(row["runs"] for row in report["jobs"])
    if report["ok"]:
        return f"{runs} of {len(report['jobs'])} configurations would run here."
    return "The library does not work here: see the lines marked PROBLEM."


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report and returns the exit status."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m core.doctor",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    values = parser.parse_args(argv)
    report = examine()
    print(json.dumps(report, indent=1) if values.json else as_text(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
