# SPDX-License-Identifier: Apache-2.0
"""Writes the pages of the API reference: one for each package, from what it says is public."""

import importlib
import importlib.util
import pathlib
import pkgutil
import types

# Packages of the reference, in the order of the table of contents.
PACKAGES = ("core", "rwkvjax", "snn", "perception", "nlp")

# Modules that belong to the interface of a package beside the names of its `__all__`.
# A package whose `__all__` has no name of its own is its modules: all of them are listed.
MODULES = {
    "rwkvjax": ("config", "embedding", "losses", "prompts", "quantization", "segments", "task"),
    "snn.ttfs": (
        "network", "simulate", "mapping", "windows", "relu", "kernels", "importers", "nir_io",
        "onnx_import", "effects", "store",
    ),
    "perception": ("saliency", "fixation", "sensors", "saccades"),
}  # fmt: skip


def write(folder: pathlib.Path) -> None:
    """Writes `folder`/index.md and one file for each package; leaves equal files alone.

    Raises:
        ImportError: a public module cannot be imported (an extra is missing).
    """
    folder.mkdir(exist_ok=True)
    pages = {}
    for package in PACKAGES:
        for name in _packages(package):
            pages[name] = _page(name)
    toc = "\n".join(pages)
    pages["index"] = (
        "# API reference\n\nFrom the docstrings; a page for each package.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{toc}\n```\n"
    )
    for old in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _packages(name: str) -> list[str]:
    """The package and the packages inside, those that have something to show."""
    found = [name]
    for info in pkgutil.iter_modules(importlib.import_module(name).__path__):
        if info.ispkg:
            found += _packages(f"{name}.{info.name}")
    return found


def _page(name: str) -> str:
    package = importlib.import_module(name)
    public = [n for n in getattr(package, "__all__", ()) if not n.startswith("__")]
    named = [n for n in public if _is_module(name, n)]
    modules = [*named, *(m for m in MODULES.get(name, ()) if m not in named)]
    if not public:
        modules = _own_modules(package)
    lines = [f"# {name}", "", *_automodule(name, members=len(named) < len(public))]
    for module in modules:
        full = f"{name}.{module}"
        if _is_program(package, module) or hasattr(importlib.import_module(full), "__path__"):
            continue  # programs are on the pages of their systems, packages have pages
        lines += [f"## {full}", "", *_automodule(full, members=True)]
    return "\n".join(lines)


def _automodule(name: str, members: bool) -> list[str]:
    options = ["   :members:"] if members else []
    return ["```{eval-rst}", f".. automodule:: {name}", *options, "```", ""]


def _is_module(package: str, name: str) -> bool:
    value = getattr(importlib.import_module(package), name, None)
    if value is None:  # not imported by the package itself
        return importlib.util.find_spec(f"{package}.{name}") is not None
    return isinstance(value, types.ModuleType)


def _own_modules(package: types.ModuleType) -> list[str]:
    found = pkgutil.iter_modules(package.__path__)
    return [info.name for info in found if not info.ispkg and not info.name.startswith("_")]


def _is_program(package: types.ModuleType, module: str) -> bool:
    path = pathlib.Path(package.__path__[0]) / f"{module}.py"
    return path.is_file() and 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
