# SPDX-License-Identifier: Apache-2.0
"""Makes every NAME.ipynb of this folder from its NAME.py (percent format, the one to edit).

python notebooks/make.py
"""

from __future__ import annotations

import pathlib
import sys

import jupytext
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent
LICENCE = "# SPDX-License-Identifier: Apache-2.0"

# Colab starts such a notebook on a TPU; elsewhere the entry has no effect.
METADATA = {
    "accelerator": "TPU",
    "colab": {"provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[pathlib.Path]:
    """The notebooks as Python files, by name."""
    return [path for path in sorted(FOLDER.glob("*.py")) if path.name != "make.py"]


def notebook(source: pathlib.Path) -> str:
    """The text of the .ipynb: cells in order, no outputs, the same for the same source.

    Raises:
      ValueError: the file does not begin with the licence line.
    """
    text = source.read_text(encoding="utf-8")
    if not text.startswith(LICENCE + "\n"):
        raise ValueError(f"{source} must begin with {LICENCE!r}")
    made = jupytext.reads(text.removeprefix(LICENCE + "\n"), fmt="py:percent")
    made.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict({})
    made.nbformat, made.nbformat_minor = 4, 5
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def main() -> None:
    """Writes the notebooks that have changed."""
    for source in sources():
        target, text = source.with_suffix(".ipynb"), notebook(source)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")
            print(f"wrote {target.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
