# SPDX-License-Identifier: Apache-2.0
"""Talks with a model in the terminal.

    python -m rwkvjax.chat --checkpoint=RWKV-x060-World-1B6.pth --dtype=bfloat16

/help lists the commands. Ctrl-C ends an answer, Ctrl-D the program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import flags

from core import cli
from rwkvjax import model_flags, prompts
from rwkvjax.chat_session import Session
from rwkvjax.sampling.settings import Sampling
from rwkvjax.serving.engine import Engine, Limits
from rwkvjax.serving.sequence import Output, Request

_FLAGS = flags.FlagValues()
model_flags.define(_FLAGS, dtype=True)
flags.DEFINE_string("system", "", "System message.", flag_values=_FLAGS)
flags.DEFINE_string("load", "", "Saved conversation to go on with.", flag_values=_FLAGS)
flags.DEFINE_integer("max_tokens", 512, "Longest answer.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("seed", 0, "Of the random draws.", flag_values=_FLAGS)
flags.DEFINE_float(
    "cache_mib", 256.0, "Budget for states of earlier messages in MiB.", 0.0, flag_values=_FLAGS
)

HELP = """\
/retry            another answer to the last question
/edit [N] TEXT    ask TEXT instead of the last question (or of question N)
/undo             go back to before the last question
/tree             all messages with their numbers; * is the conversation
/go N             continue after message N (another branch)
/save FILE        keep the whole tree in FILE (JSON)
/load FILE        go on with a saved tree
/set [NAME VALUE] show or change: temperature top_p top_k min_p presence frequency decay
/help  /quit      A message that begins with a slash is written with two.
"""
_SETTINGS = ("temperature", "top_p", "top_k", "min_p", "presence", "frequency", "decay")
_COLOURS = {"user": "\033[1;36m", "assistant": "\033[1;32m", "note": "\033[2m", "": "\033[0m"}


class Chat:
    """One conversation with one model; input and output are passed in."""

    def __init__(
        self,
        engine: Engine,
        session: Session,
        write: Callable[[str], None],
        *,
        max_tokens: int = 512,
        seed: int = 0,
        colour: bool = False,
    ):
        self.engine, self.session = engine, session
        self.how = Sampling(1.0, 0.3, presence=0.5, frequency=0.5)  # the official chat program's
        self._write, self._max_tokens, self._colour = write, max_tokens, colour
        self._seed = seed
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: self._write(HELP),
            "retry": lambda _: self._retry(),
            "edit": self._edit,
            "undo": lambda _: self._undo(),
            "tree": lambda _: self._write(_printable(self.session.tree()) + "\n"),
            "go": self._go,
            "save": self._save,
            "load": self._load,
            "set": self._set,
        }

    def handle(self, line: str) -> bool:
        """Acts on one line of input; False when it asks to end."""
        line = line.strip()
        if not line:
            return True
        if line in ("/quit", "/exit"):
            return False
        try:
            if line.startswith("/") and not line.startswith("//"):
                name, _, rest = line[1:].partition(" ")
                if name not in self._commands:
                    raise ValueError(f"unknown command /{name}; /help lists them")
                self._commands[name](rest.strip())
            else:
                self.session.ask(line[1:] if line.startswith("//") else line)
                self.reply()
        except (ValueError, OSError) as error:
            self._note(str(error))
        return True

    def reply(self) -> None:
        """Draws and shows an answer to the question at the head."""
        prompt = self.session.prompt()
        ids = np.asarray(self.engine.tokenizer.encode(prompt), np.int32)
        messages = self.session.messages()
        shared = prompts.shared_lengths(self.engine.tokenizer, messages, ids)
        end = self.engine.tokenizer.end_of_document
        how = dataclasses.replace(self.how, stop=() if end is None else (end,))
        self._seed += 1
        request = Request(
            ids, self._max_tokens, how, self._seed, stop=(prompts.END,), breakpoints=tuple(shared)
        )
        self._write(self._paint("assistant", "Assistant:") + " ")
        text, drawn, start, output = "", 0, time.monotonic(), Output()
        for output in self._outputs(request):
            piece = output.text if text else output.text.lstrip()
            self._write(_printable(piece))
            text += piece
            drawn += len(output.tokens)
        self._write("\n")
        seconds = time.monotonic() - start
        ended = {"length": "cut at --max_tokens, ", "cancelled": "stopped, "}.get(output.finish, "")
        self._note(
            f"{ended}{drawn} tokens, {drawn / max(seconds, 1e-9):.1f} a second;"
            f" {output.cached} of {len(ids)} prompt tokens from memory"
        )
        self.session.answer(text)

    def _outputs(self, request: Request) -> Iterator[Output]:
        """Outputs of a request; Ctrl-C cancels it."""
        number = self.engine.submit(request)
        with _interrupts(lambda: self.engine.cancel(number)):
            while self.engine.busy:
                yield from (output for _, output in self.engine.step())

    def _retry(self) -> None:
        self.session.retry()
        self.reply()

    def _edit(self, rest: str) -> None:
        first, _, text = rest.partition(" ")
        if first.isdigit() and text:
            self.session.edit(int(first), text)
        else:
            self.session.edit(self.session.last_question(), rest)
        self.reply()

    def _undo(self) -> None:
        self.session.undo()
        self.show()

    def _go(self, rest: str) -> None:
        if not rest.isdigit():
            raise ValueError("/go needs the number of a message; /tree shows all")
        self.session.go(int(rest))
        self.show()

    def _save(self, rest: str) -> None:
        path = _file_name(rest, "save")
        self.session.save(path)
        self._note(f"saved {len(self.session.nodes)} messages in {path}")

    def _load(self, rest: str) -> None:
        self.session = Session.load(_file_name(rest, "load"))
        self.show()

    def _set(self, rest: str) -> None:
        words = rest.split()
        if words:
            try:
                name, value = words
                number = int(value) if name == "top_k" else float(value)
            except ValueError:
                name, number = "", 0
            if name not in _SETTINGS:
                raise ValueError(f"/set takes one of {', '.join(_SETTINGS)} and a number")
            changes: dict[str, float] = {name: number}
            self.how = dataclasses.replace(self.how, **changes)  # type: ignore[arg-type]
        self._note("  ".join(f"{name} {getattr(self.how, name):g}" for name in _SETTINGS))

    def show(self) -> None:
        """The conversation up to the head."""
        for number in self.session.path():
            node = self.session.nodes[number]
            name = self._paint(node.role, prompts.ROLES[node.role] + ":")
            self._write(f"{name} {_printable(node.text)}\n")

    def _note(self, text: str) -> None:
        self._write(self._paint("note", f"({_printable(text)})") + "\n")

    def _paint(self, kind: str, text: str) -> str:
        return _COLOURS[kind] + text + _COLOURS[""] if self._colour else text


@contextlib.contextmanager
def _interrupts(act: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `act`. An exception in the middle of a step would leave the engine without the
    arrays that it has handed to the device."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not come here
        return
    before = signal.signal(signal.SIGINT, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _file_name(words: str, command: str) -> str:
    """The one file name that a command needs; quotes allow spaces in it."""
    names = shlex.split(words)
    if len(names) != 1:
        raise ValueError(f"/{command} needs the name of one file, got {len(names)} (quote spaces)")
    return names[0]


def _printable(text: str) -> str:
    """Text that cannot steer the terminal: control characters become visible."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else "\ufffd"
        for c in text
    )


def read_lines(prompt: str) -> Iterator[str]:
    """Lines of standard input; one that ends with a backslash goes on in the next."""
    while True:
        parts: list[str] = []
        try:
            while True:
                line = input(prompt if not parts else "")
                parts.append(line.removesuffix("\\"))
                if not line.endswith("\\"):
                    break
        except EOFError:
            if parts:
                yield "\n".join(parts)
            return
        except KeyboardInterrupt:
            print()
            continue
        yield "\n".join(parts)


def main(values: flags.FlagValues) -> None:
    """Reads questions until the end of input."""
    model_flags.require_checkpoint(values)
    from rwkvjax.tokenizers import decodable_ids

    with cli.explain():
        cfg, params, tokenizer = model_flags.open_model(values)
        session = Session.load(values.load) if values.load else Session(values.system)
        limits = Limits(slots=1, cache_bytes=int(values.cache_mib * 2**20))
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # pipes may hold any bytes
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        import readline  # noqa: F401  (line editing and history of `input`)

    def write(text: str) -> None:
        print(text, end="", flush=True)

    chat = Chat(
        Engine(params, cfg, tokenizer, limits),
        session,
        write,
        max_tokens=values.max_tokens,
        seed=values.seed,
        colour=terminal and "NO_COLOR" not in os.environ,
    )
    chat.how = dataclasses.replace(chat.how, vocab=min(decodable_ids(tokenizer), cfg.vocab_size))
    chat.show()
    for line in read_lines("User: " if terminal else ""):
        if not chat.handle(line):
            break


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
