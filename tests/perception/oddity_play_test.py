# SPDX-License-Identifier: Apache-2.0
"""The playable riddles: game, page over HTTP, files, mistakes."""

import http.client
import json
import signal
import subprocess
import threading
import zlib

import numpy as np
import pytest

from perception import oddity_play
from perception.data import oddity

MODELS = {"OReN": {"topology": 0.9, "41": 0.1}, "SNU": {"0": 0.4, "1": 0.8}}


def _game(path, **options):
    riddles = oddity.Oddity("all", split="test", size=1_000, **options)
    return oddity_play.Game(riddles, path, MODELS)


def _answer(game, right=True, seconds=1.5):
    number = game.current()
    (scene,) = game._riddles.scenes(np.array([number]))
    choice = scene.label if right else (scene.label + 1) % 6
    return game.answer({"number": number, "choice": choice, "seconds": seconds})


def test_answers_are_judged_kept_and_scored(tmp_path):
    path = tmp_path / "answers.jsonl"
    game = _game(path)
    results = [_answer(game, right) for right in (True, False, True, True)]
    assert [r["correct"] for r in results] == [True, False, True, True]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["number"] for r in records] == [0, 1, 2, 3]
    assert all(r["correct"] == (r["choice"] == r["label"]) for r in records)
    total = game.scores()["rows"][-1]
    assert (total["family"], total["answered"], total["share"]) == ("all", 4, 0.75)
    assert sum(r["answered"] for r in game.scores()["rows"][:-1]) == 4
    again = _game(path)
    assert again.current() == 4 and again.scores() == game.scores()


def test_scores_stand_beside_chance_and_the_models(tmp_path):
    scores = _game(tmp_path / "a.jsonl").scores()
    assert scores["chance"] == 1 / 6 and scores["models"] == ["OReN", "SNU"]
    rows = {r["family"]: r["models"] for r in scores["rows"]}
    assert rows["topology"] == [0.9, None]
    assert rows["colour orientation"] == [None, pytest.approx(0.6)]
    assert rows["all"] == [None, None]  # neither knows all riddles of this game
    assert scores["rows"][0]["share"] is None


def test_models_are_averaged_over_the_riddles_of_the_game(tmp_path):
    riddles = oddity.Oddity([0, 1, 41, 42, 43], split="test", size=10)
    models = {"A": {"colour_orientation": 0.5, "topology": 0.9, "42": 0.3}, "B": {"all": 0.4}}
    scores = oddity_play.Game(riddles, tmp_path / "a.jsonl", models).scores()
    rows = {r["family"]: r["models"] for r in scores["rows"]}
    assert list(rows) == ["colour orientation", "topology", "all"]
    # By riddle, as they are drawn: 0.5, 0.5, 0.9, 0.3, 0.9.
    assert rows["topology"] == [pytest.approx(0.7), pytest.approx(0.4)]
    assert rows["all"] == [pytest.approx(3.1 / 5), pytest.approx(0.4)]


@pytest.mark.parametrize(
    "change,status,message",
    [
        ({"choice": 6}, 400, "choice must be in 0 ... 5, got 6"),
        ({"choice": True}, 400, "choice must be"),
        ({"seconds": -1}, 400, "seconds must be"),
        ({"seconds": float("nan")}, 400, "seconds must be"),
        ({"number": 3}, 409, "riddle 0 is to be answered, got 3"),
        ({"extra": 3}, 400, "number, choice and seconds"),
    ],
)
def test_bad_answers_are_refused_and_not_kept(tmp_path, change, status, message):
    game = _game(tmp_path / "a.jsonl")
    with pytest.raises(oddity_play.PlayError, match=message) as caught:
        game.answer({"number": 0, "choice": 1, "seconds": 2.0, **change})
    assert caught.value.status == status
    assert game.current() == 0 and not (tmp_path / "a.jsonl").exists()


def test_files_of_other_games_and_other_content_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    _answer(_game(path))
    with pytest.raises(ValueError, match="answers to other riddles .* seed 7"):
        _game(path, seed=7)
    path.write_text('{"number": 0}\n')
    with pytest.raises(ValueError, match="line 1: not an answer"):
        _game(path)


def test_models_are_checked(tmp_path):
    path = tmp_path / "models.json"
    path.write_text(json.dumps(MODELS))
    assert oddity_play.read_models(str(path)) == MODELS
    for content, message in (
        ("{", "is not JSON"),
        ("[1]", "must hold"),
        ('{"a": {"shapes": 0.5}}', "'shapes' is neither a family nor a riddle"),
        ('{"a": {"topology": 93}}', "accuracy in 0 ... 1, got 93"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            oddity_play.read_models(str(path))
    with pytest.raises(FileNotFoundError):
        oddity_play.read_models(str(tmp_path / "none.json"))


@pytest.fixture
def server(tmp_path):
    made = oddity_play.Server(_game(tmp_path / "answers.jsonl"), 0)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))  # looks for its end so often
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def _ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, reply.headers["Content-Type"], content


def _pixels(content):
    """Decodes an 8-bit grey PNG without filters."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(content):
        n = int.from_bytes(content[at : at + 4], "big")
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + n]
        assert zlib.crc32(kind + data) == int.from_bytes(content[at + 8 + n : at + 12 + n], "big")
        chunks[kind] = data
        at += n + 12
    width, height = (int.from_bytes(chunks[b"IHDR"][k : k + 4], "big") for k in (0, 4))
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    return rows[:, 1:]


def test_a_riddle_is_played_over_http(server):
    status, kind, page = _ask(server, "GET", "/")
    assert status == 200 and kind.startswith("text/html") and b"Which one is odd?" in page
    assert server.server_address[0] == "127.0.0.1"
    status, _, content = _ask(server, "GET", "/riddle")
    riddle = json.loads(content)
    assert riddle["number"] == 0 and len(riddle["frames"]) == 6
    batch = server.game._riddles.rows(np.array([0]))
    for k, source in enumerate(riddle["frames"]):
        status, kind, content = _ask(server, "GET", source)
        assert (status, kind) == (200, "image/png")
        assert (_pixels(content) == batch["image"][0, k]).all()
    label = int(batch["label"][0])
    body = json.dumps({"number": 0, "choice": label, "seconds": 3.2})
    status, _, content = _ask(
        server, "POST", "/answer", body, **{"Content-Type": "application/json"}
    )
    result = json.loads(content)
    assert status == 200 and result["correct"] and result["label"] == label
    assert result["name"] == oddity.NAMES[int(batch["riddle"][0])]
    assert json.loads(_ask(server, "GET", "/riddle")[2])["number"] == 1
    assert json.loads(_ask(server, "GET", "/scores")[2]) == result["scores"]


@pytest.mark.parametrize(
    "method,path,body,headers,status",
    [
        ("GET", "/nothing", None, {}, 404),
        ("GET", "/frame/1/0.png", None, {}, 404),  # not reached yet: it could be looked up
        ("GET", "/frame/0/6.png", None, {}, 404),
        ("GET", "/frame/-1/0.png", None, {}, 404),
        ("GET", "/frame/0/x.png", None, {}, 404),
        ("GET", "/", None, {"Host": "evil.example"}, 403),
        ("POST", "/answer", "{}", {"Content-Type": "text/plain"}, 415),
        ("POST", "/answer", "{", {"Content-Type": "application/json"}, 400),
        ("POST", "/answer", "[]", {"Content-Type": "application/json"}, 400),
        ("POST", "/answer", "[" * 4_000, {"Content-Type": "application/json"}, 400),
        ("POST", "/answer", "x" * 5_000, {"Content-Type": "application/json"}, 413),
        ("POST", "/other", "{}", {"Content-Type": "application/json"}, 404),
    ],
)
def test_bad_requests(server, method, path, body, headers, status):
    found, kind, content = _ask(server, method, path, body, **headers)
    assert found == status and kind == "application/json"
    assert json.loads(content)["error"]


def test_the_program_serves_and_explains_mistakes(tmp_path, python, repo):
    command = [python, "-m", "perception.oddity_play", f"--answers={tmp_path / 'a.jsonl'}"]
    for flags, message in (
        (["--riddle=shapes"], "families are all"),
        (["--models=none.json"], "none.json"),
        (["--port=70000"], "port"),
    ):
        run = subprocess.run([*command, *flags], cwd=repo, capture_output=True, text=True)
        assert run.returncode == 2 and run.stderr.startswith("error: ") and message in run.stderr
    process = subprocess.Popen([*command, "--port=0"], cwd=repo, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[0]
        port = int(address.split(":")[2].strip("/"))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/riddle")
        assert json.loads(connection.getresponse().read())["number"] == 0
        connection.close()
    finally:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "0 answers" in out
