# SPDX-License-Identifier: Apache-2.0
"""The commands that the documentation prints: found, and made ready to run."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import re
import shlex
import tomllib
from collections.abc import Iterator

_START = re.compile(
    r"(?:\.venv/bin/)?python -m ((?:core|rwkvjax|snn|perception|nlp|benchmarks)\.\w+)"
)
_INLINE = re.compile(r"`([^`\n]*python -m [^`]*)`", re.S)
# A line that only shows how a configuration is named: "... gap_svrt.py:problem=5".
_VARIANT = re.compile(r"^\s*\.\.\. (\w+\.py(?::\S+)?)")


@dataclasses.dataclass(frozen=True)
class Command:
    """One printed command: where it stands, its module, and its arguments."""

    where: str
    module: str
    arguments: tuple[str, ...]

    @property
    def text(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(["python", "-m", self.module, *self.arguments])


def commands(repo: pathlib.Path) -> list[Command]:
    """Every command of our programs in README.md, CHANGELOG.md, docs/*.md, the text of notebooks,
    the records of results, and the docstrings of configs/, benchmarks/ and of the programs, without
    repetitions."""
    found: dict[tuple[str, tuple[str, ...]], Command] = {}
    for where, text in _texts(repo):
        before: Command | None = None
        for line in lines(text):
            command = _parse(where, line, text)
            if command and f"{command.module} ... " in line and before:
                # "program ... --flag": the arguments of the command before it, and these.
                assert before.module == command.module, f"{where}: {line.strip()}"
                joined = (*before.arguments, *command.arguments)
                command = dataclasses.replace(command, arguments=joined)
            if command:
                found.setdefault((command.module, command.arguments), command)
                before = command
    return list(found.values())


def _texts(repo: pathlib.Path) -> Iterator[tuple[str, str]]:
    pages = (repo / "README.md", repo / "CHANGELOG.md", *sorted((repo / "docs").glob("*.md")))
    for path in pages:
        yield path.relative_to(repo).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((repo / "benchmarks" / "records").glob("*.toml")):
        record = tomllib.loads(path.read_text(encoding="utf-8"))
        yield path.relative_to(repo).as_posix(), record["command"]
    for path in sorted((repo / "notebooks").glob("*.py")):
        source = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line.removeprefix("# ") for line in source if line.startswith("# "))
        yield path.relative_to(repo).as_posix(), text
    for folder in ("configs", "benchmarks", "core", "rwkvjax", "snn", "perception", "nlp"):
        for path in sorted((repo / folder).rglob("*.py")):
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False)
            if doc and ("python -m" in doc or _VARIANT.search(doc)):
                yield path.relative_to(repo).as_posix(), doc


def lines(text: str) -> Iterator[str]:
    """Lines of code blocks and commands within a line of text; continued lines are joined."""
    text = re.sub(r"\\\\?\n\s*", " ", text)
    for quoted in _INLINE.findall(text):
        yield " ".join(quoted.split())
    for line in text.splitlines():
        if "`" not in line:
            yield line


def _parse(where: str, line: str, text: str) -> Command | None:
    variant = _VARIANT.match(line)
    if variant:
        module = _START.search(text)
        assert module, f"{where}: a variant without a command"
        package = where.split("/")[1]
        return Command(
            where, module[1], (f"--config=configs/{package}/{variant[1]}", "--workdir=RUN")
        )
    start = _START.search(line)
    if not start:
        return None
    # Up to a comment, a pipe, the end of a quoted command, or a column of explanations.
    rest = re.split(r"\s#\s|\s#$|\s\|\s|\s&&\s|\s{3,}(?![-\s])", line[start.end() :])[0]
    rest = re.sub(r"\[(--[^\]]*)\]", r"\1", rest).rstrip(" .,;:)")
    if rest.count('"') % 2:  # the end of a quotation around the whole command
        rest = rest.rstrip('"')
    try:
        words = [w for w in shlex.split(rest) if w.strip(".")]
    except ValueError as error:
        raise ValueError(f"{where}: {error} in {line.strip()!r}") from error
    return Command(where, start[1], tuple(words))
