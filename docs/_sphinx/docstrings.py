# SPDX-License-Identifier: Apache-2.0
"""Docstrings as written here, made ready for Sphinx.

They are plain text that reads in an editor: `code` in single backticks, indented examples and
equations, sections "Args:", "Returns:", "Raises:" in Google's style. reStructuredText would take
single backticks for references, stars for emphasis and the line breaks of an equation for noise.
"""

import re

_SECTION = re.compile(
    r"^(Args|Attributes|Example|Examples|Note|Raises|Returns|References|Yields):\s*$"
)
_NAMES = re.compile(r"^( +)(\w+(?:, \w+)+): (.*)")
_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
_LIST = re.compile(r"^\s*([-*]|\d+\.)\s")


def process(app, what, name, obj, options, lines):  # noqa: ANN001, ANN201, ARG001
    """Replaces `lines` in place; an event handler of Sphinx."""
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(": ", " – ")  # napoleon takes what is before a colon for a type
    lines[:] = convert(lines)


def skip(app, what, name, obj, skip, options):  # noqa: ANN001, ANN201, ARG001
    """Leaves out fields of named tuples, whose only text is their number."""
    doc = getattr(obj, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def convert(lines: list[str]) -> list[str]:
    """Our text -> reStructuredText, block by block (blocks are separated by empty lines)."""
    done: list[str] = []
    section = ""  # the one this block belongs to
    for block in _blocks(lines):
        if found := _SECTION.match(block[0]):
            section = found[1]
        elif not block[0].startswith(" "):
            section = ""
        if section.startswith("Example"):
            done += [block[0], "", "    ::", "", *("    " + line for line in block[1:])]
        elif section in ("Returns", "Yields"):
            done += [_inline(line) for line in _flat(block)]
        elif section:
            done += [_inline(line) for line in _each_name(block, section)]
        elif block[0].startswith(" ") or any(_is_drawn(line) for line in block):
            done += ["::", "", *("    " + line for line in block)]
        else:
            done += _paragraph(block)
        done.append("")
    return done


def _flat(block: list[str]) -> list[str]:
    """Without the hanging indentation of entries: one paragraph."""
    return [line if _SECTION.match(line) else "    " + line.strip() for line in block]


def _each_name(block: list[str], section: str) -> list[str]:
    """An entry of attributes with several names becomes one for each: fields have one name."""
    lines = []
    for line in block:
        found = _NAMES.match(line) if section == "Attributes" else None
        if found:
            indent, names, text = found.groups()
            *first, last = names.split(", ")
            lines += [f"{indent}{name}: as `{last}`" for name in first]
            line = f"{indent}{last}: {text}"
        lines.append(line)
    return lines


def _blocks(lines: list[str]) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    for line in lines:
        if not line.strip():
            blocks.append([])
        elif _SECTION.match(line) and blocks[-1]:
            blocks.append([line])
        else:
            blocks[-1].append(line.rstrip())
    return [block for block in blocks if block]


def _is_drawn(line: str) -> bool:
    """Columns or equations: line breaks and runs of spaces carry meaning."""
    return bool(re.search(r"\S {3,}\S", line)) or line.startswith(" ")


def _paragraph(block: list[str]) -> list[str]:
    if any(_LIST.match(line) for line in block):
        return ["| " + _inline(line) for line in block]
    return [_inline(line) for line in block]


def _inline(line: str) -> str:
    parts = _CODE.split(line)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = part if part.startswith("``") else f"`{part}`"
        else:
            parts[i] = re.sub(r"([\\*|])|(_)(?=\W|$)", r"\\\g<0>", part)
    return "".join(parts)
