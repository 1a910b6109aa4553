# SPDX-License-Identifier: Apache-2.0
"""The docs site: Sphinx over the Markdown pages of this folder and the docstrings.

    sphinx-build -W --keep-going -b html docs build/docs

The pages are plain Markdown that reads on GitHub as well. `_sphinx/api_pages.py` writes the API
pages into docs/api (not kept), `_sphinx/docstrings.py` turns the house's docstrings into
reStructuredText.
"""

import pathlib
import sys

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent), str(_HERE / "_sphinx")]

import api_pages  # noqa: E402
import docstrings  # noqa: E402

from core.version import __version__  # noqa: E402

project = "rwkvjax"
copyright = "the authors of rwkvjax, Apache-2.0"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_sphinx", "Thumbs.db", ".DS_Store"]

# What GitHub understands too: $...$, $$...$$, ```mermaid and headings as link targets.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Fields of like names in several classes: the link in a signature picks one.
suppress_warnings = ["ref.python"]
toc_object_entries = False

html_theme = "furo"
html_title = f"rwkvjax {release}"
html_copy_source = False


def setup(app):  # noqa: ANN001, ANN201 - Sphinx's type is not ours
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: api_pages.write(pathlib.Path(app.srcdir) / "api"))
    # Before napoleon, which has the default priority.
    app.connect("autodoc-process-docstring", docstrings.process, priority=100)
    app.connect("autodoc-skip-member", docstrings.skip)
