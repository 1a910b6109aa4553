# SPDX-License-Identifier: Apache-2.0
"""The docs hold together: pages are listed, links lead somewhere, what is public is documented.

The site itself is built strictly by .ci/run, which needs the extra `docs`.
"""

import importlib
import importlib.util
import pkgutil
import re
import types

import pytest

PACKAGES = ("core", "rwkvjax", "snn", "perception", "nlp")
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
_FENCED = re.compile(r"^```.*?^```", re.M | re.S)


def _pages(repo):
    return [repo / "README.md", *sorted((repo / "docs").glob("*.md"))]


def test_every_page_is_in_the_table_of_contents(repo):
    index = (repo / "docs" / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}(.*?)```", index, re.S)
    listed = {line for block in blocks for line in block.split() if not line.startswith(":")}
    pages = {path.stem for path in (repo / "docs").glob("*.md")} - {"index"}
    assert pages <= listed, f"not in docs/index.md: {sorted(pages - listed)}"


def test_links_lead_to_files(repo):
    for page in _pages(repo):
        text = _FENCED.sub("", page.read_text(encoding="utf-8"))
        for target in _LINK.findall(text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_system_has_equations(repo):
    systems = ("rwkv", "ttfs", "spiking_tasks", "speech", "gap", "oddity", "personalization")
    for name in (*systems, "acquisition", "augmentation", "llm_evaluation"):
        text = (repo / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert "$$" in text, f"docs/{name}.md has no equation"


def _public_packages(name):
    yield name
    for info in pkgutil.iter_modules(importlib.import_module(name).__path__):
        if info.ispkg:
            yield from _public_packages(f"{name}.{info.name}")


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_public_exists_and_is_documented(package):
    for name in _public_packages(package):
        module = importlib.import_module(name)
        assert module.__doc__, name
        for public in module.__all__:
            if importlib.util.find_spec(f"{name}.{public}"):
                continue  # a module, which need not be imported by its package
            value = getattr(module, public)
            if isinstance(value, type | types.FunctionType):
                assert value.__doc__, f"{name}.{public} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_gives_its_names(package):
    """As in a notebook: `import snn`, then `snn.cells`."""
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.fixture(scope="module")
def docstrings(repo):
    place = repo / "docs" / "_sphinx" / "docstrings.py"
    spec = importlib.util.spec_from_file_location("docstrings", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_code_and_equations_survive_the_docs_site(docstrings):
    text = ["Sums `x*y` over *all* rows.", "", "    s = a_ + b", "      + c", "", "End."]
    assert docstrings.convert(text) == [
        *("Sums ``x*y`` over \\*all\\* rows.", ""),
        *("::", "", "        s = a_ + b", "          + c", ""),
        *("End.", ""),
    ]


def test_attributes_that_share_an_entry_have_one_each(docstrings):
    text = ["Attributes:", "  a, b: numbers", "    of rows."]
    expected = ["Attributes:", "  a: as ``b``", "  b: numbers", "    of rows.", ""]
    assert docstrings.convert(text) == expected
