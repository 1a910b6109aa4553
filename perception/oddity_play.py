# SPDX-License-Identifier: Apache-2.0
"""A page on this machine on which a person solves oddity riddles, scored beside the models.

    python -m perception.oddity_play --port=8000 --answers=answers.jsonl
    python -m perception.oddity_play --riddle=topology --models=results.json

Open the address it prints. Answers are kept, one JSON object a line, in --answers; started again
with the same file the game goes on with the next riddle. --models names a file with the accuracies
of models, {"model": {"family, riddle number or all": accuracy in 0 ... 1}}, such as
`perception.oddity_report` writes; a model is shown for the families of which it knows all riddles.
"""

from __future__ import annotations

import json
import pathlib
import struct
import threading
import zlib
from collections.abc import Collection, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from absl import flags

from core import cli, files, intervals
from perception.data import oddity
from perception.oddity_page import PAGE

HOST = "127.0.0.1"
RIDDLES = 1_000_000  # no one runs out
_LARGEST_BODY = 4_096

_FLAGS = flags.FlagValues()
flags.DEFINE_integer("port", 8000, "Port; 0: any free one.", 0, 65535, flag_values=_FLAGS)
flags.DEFINE_string("answers", "oddity_answers.jsonl", "File of answers.", flag_values=_FLAGS)
flags.DEFINE_string("models", "", "JSON file with accuracies of models.", flag_values=_FLAGS)
flags.DEFINE_string("riddle", "all", "Riddle number, family, or all.", flag_values=_FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the riddles.", 0, flag_values=_FLAGS)
flags.DEFINE_integer("resolution", 240, "Pixels per side of a frame.", 16, 800, flag_values=_FLAGS)
flags.DEFINE_float("contrast", 1.0, "How far the odd one deviates.", 0.5, 3.0, flag_values=_FLAGS)


class PlayError(Exception):
    """A request that cannot be served: status and message for the page."""

    def __init__(self, status: int, message: str):
        """Args: HTTP status and a message for the player."""
        super().__init__(message)
        self.status = status


class Game:
    """Riddles in order, the answers given, and the scores; safe for several threads."""

    def __init__(
        self,
        riddles: oddity.Oddity,
        answers: pathlib.Path,
        models: Mapping[str, Mapping[str, float]] | None = None,
    ):
        """Opens a game, or goes on with the one in the file `answers`.

        Raises:
          ValueError: the file holds something else, or answers to other riddles.
        """
        self._riddles, self._path = riddles, answers
        self.models = dict(models or {})
        # What decides which riddles come; answers to others must not be mixed with these.
        which = (
            ",".join(map(str, riddles.riddles))
            if len(riddles.riddles) < len(oddity.NAMES)
            else "all"
        )
        self._game = f"riddles {which}, seed {riddles.seed}, contrast {riddles.contrast:g}"
        self._lock = threading.Lock()
        self._answers = self._read()

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        records = []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        for k, line in enumerate(lines):
            try:
                record = json.loads(line)
                family = oddity.family_of(record["riddle"])
                good = record["number"] == k and isinstance(record["correct"], bool) and family
            except (ValueError, KeyError, TypeError, StopIteration):
                good = False
            if not good:
                raise ValueError(f"{self._path}, line {k + 1}: not an answer of this program")
            if record.get("game") != self._game:
                raise ValueError(
                    f"{self._path} holds answers to other riddles ({record.get('game')}), "
                    f"wanted {self._game}; name another file with --answers"
                )
            records.append(record)
        return records

    def current(self) -> int:
        """Number of the riddle to be answered next."""
        with self._lock:
            return len(self._answers)

    def frame(self, number: int, place: int) -> bytes:
        """Picture `place` of a riddle as PNG; only of riddles already reached."""
        if not 0 <= place < oddity.FRAMES or not 0 <= number <= self.current():
            raise PlayError(404, f"no picture {place} of riddle {number}")
        return png(self._make(number)["image"][0, place])

    def _make(self, number: int) -> dict[str, np.ndarray]:
        return self._riddles.make(np.array([number]))

    def answer(self, body: Any) -> dict[str, Any]:
        """Takes {"number", "choice", "seconds"}, keeps the answer, and says how it went."""
        if not isinstance(body, dict) or set(body) != {"number", "choice", "seconds"}:
            raise PlayError(400, "an answer has number, choice and seconds")
        number, choice, seconds = body["number"], body["choice"], body["seconds"]
        if type(choice) is not int or not 0 <= choice < oddity.FRAMES:
            raise PlayError(400, f"choice must be in 0 ... {oddity.FRAMES - 1}, got {choice!r}")
        if type(seconds) not in (int, float) or not 0 <= seconds < 1e6:
            raise PlayError(400, f"seconds must be a number in 0 ... 1000000, got {seconds!r}")
        with self._lock:
            if type(number) is not int or number != len(self._answers):
                raise PlayError(
                    409, f"riddle {len(self._answers)} is to be answered, got {number!r}"
                )
            (scene,) = self._riddles.scenes(np.array([number]))
            record = {
                "number": number,
                "riddle": scene.riddle,
                "label": scene.label,
                "choice": choice,
                "correct": choice == scene.label,
                "seconds": round(float(seconds), 3),
                "game": self._game,
            }
            lines = [json.dumps(r) + "\n" for r in (*self._answers, record)]
            files.write_text(self._path, "".join(lines))
            self._answers.append(record)
        return {
            "correct": record["correct"],
            "label": scene.label,
            "name": oddity.NAMES[scene.riddle],
            "scores": self.scores(),
        }

    def scores(self) -> dict[str, Any]:
        """Per family and in all: answers, share of right ones with 95 % interval, and the models'
        accuracies (None where unknown)."""
        with self._lock:
            answers = list(self._answers)
        rows = []
        drawn = set(self._riddles.riddles)
        groups = {name: drawn.intersection(own) for name, own in oddity.FAMILIES.items()}
        for family, members in {**groups, "all": drawn}.items():
            if not members:  # a family that this game does not have
                continue
            mine = [r["correct"] for r in answers if r["riddle"] in members]
            low, high = intervals.wilson(sum(mine), len(mine)) if mine else (None, None)
            rows.append(
                {
                    "family": family.replace("_", " "),
                    "answered": len(mine),
                    "share": sum(mine) / len(mine) if mine else None,
                    "low": low,
                    "high": high,
                    "models": [model_share(m, family, members) for m in self.models.values()],
                }
            )
        return {"chance": 1 / oddity.FRAMES, "models": list(self.models), "rows": rows}


def model_share(
    accuracies: Mapping[str, float], family: str, riddles: Collection[int]
) -> float | None:
    """A model's accuracy on the riddles of a family (or of "all") that a game has.

    Its own entry where the game has the whole family; otherwise the mean over the riddles, each by
    its own entry, that of its family or that of "all". None unless all are known: a person who sees
    them all must not be set beside a model that was tested on the easier half.
    """
    whole = oddity.FAMILIES.get(family, range(len(oddity.NAMES)))
    if family in accuracies and len(riddles) == len(whole):
        return accuracies[family]
    total = 0.0
    for riddle in riddles:
        names = (str(riddle), oddity.family_of(riddle), "all")
        known = [accuracies[name] for name in names if name in accuracies]
        if not known:
            return None
        total += known[0]
    return total / len(riddles)


def read_models(path: str) -> dict[str, dict[str, float]]:
    """Accuracies of models, see the module docstring.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not of the described form.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    keys = {*oddity.FAMILIES, "all", *(str(r) for r in range(len(oddity.NAMES)))}
    if not isinstance(found, dict) or not all(isinstance(m, dict) for m in found.values()):
        raise ValueError(f'{path} must hold {{"model": {{"family": accuracy}}}}')
    for model, accuracies in found.items():
        for key, value in accuracies.items():
            if key not in keys:
                raise ValueError(f"{path}, {model}: {key!r} is neither a family nor a riddle")
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ValueError(f"{path}, {model}, {key}: accuracy in 0 ... 1, got {value!r}")
    return found


def png(grey: np.ndarray) -> bytes:
    """uint8 [h, w] as an 8-bit grey PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width = grey.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), grey], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


class _Handler(BaseHTTPRequestHandler):
    """GET / , /riddle, /scores, /frame/<riddle>/<place>.png; POST /answer."""

    server: Server

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _serve(self, respond: Any) -> None:
        try:
            # Another site could point its own name at this machine and read the replies.
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            if host not in (HOST, "localhost"):
                raise PlayError(403, f"this page is served on {HOST} only")
            kind, content = respond()
            self._send(200, kind, content)
        except PlayError as error:
            self._send_json(error.status, {"error": str(error)})
        except OSError as error:  # the answer could not be written
            self._send_json(500, {"error": str(error)})

    def _get(self) -> tuple[str, bytes]:
        game, parts = self.server.game, self.path.split("?")[0].strip("/").split("/")
        if parts == [""]:
            return "text/html; charset=utf-8", PAGE.encode()
        if parts == ["riddle"]:
            number = game.current()
            frames = [f"/frame/{number}/{k}.png" for k in range(oddity.FRAMES)]
            return _json({"number": number, "frames": frames})
        if parts == ["scores"]:
            return _json(game.scores())
        if len(parts) == 3 and parts[0] == "frame" and parts[2].endswith(".png"):
            riddle, place = parts[1], parts[2].removesuffix(".png")
            if _plain_number(riddle) and _plain_number(place):
                return "image/png", game.frame(int(riddle), int(place))
        raise PlayError(404, f"no page {self.path}")

    def _post(self) -> tuple[str, bytes]:
        if self.path != "/answer":
            raise PlayError(404, f"no page {self.path}")
        if self.headers.get("Content-Type", "").split(";")[0] != "application/json":
            raise PlayError(415, "answers are sent as application/json")
        length = self.headers.get("Content-Length", "")
        if not _plain_number(length) or int(length) > _LARGEST_BODY:
            raise PlayError(413, f"an answer has at most {_LARGEST_BODY} bytes")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise PlayError(400, f"the answer is not JSON: {error}") from error
        return _json(self.server.game.answer(body))

    def _send_json(self, status: int, value: Any) -> None:
        self._send(status, *_json(value))

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the page shows what goes wrong."""


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _plain_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


class Server(ThreadingHTTPServer):
    """Serves one game on this machine."""

    daemon_threads = True

    def __init__(self, game: Game, port: int):
        """Binds the port; OSError where it is taken."""
        self.game = game
        super().__init__((HOST, port), _Handler)


def main(values: flags.FlagValues) -> None:
    """Serves until interrupted."""
    with cli.explain():
        riddle = int(values.riddle) if values.riddle.isdigit() else values.riddle
        riddles = oddity.Oddity(
            riddle,
            split="test",
            size=RIDDLES,
            seed=values.seed,
            resolution=values.resolution,
            contrast=values.contrast,
        )
        models = read_models(values.models) if values.models else None
        game = Game(riddles, pathlib.Path(values.answers), models)
        server = Server(game, values.port)
    print(f"http://{HOST}:{server.server_address[1]}/  (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(f"{game.current()} answers in {values.answers}")
    finally:
        server.server_close()


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__)
