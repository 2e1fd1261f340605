"""The server shows each reader the next item, keeps the answer, and tells nothing else."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import urllib.error
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from tests.study.studies import config, is_real, write_set
from tests.viewer.slides import ask as ask_app
from wsigen.cli import main
from wsigen.study.make import make_study
from wsigen.study.server import make_app
from wsigen.study.store import AnswerStore
from wsigen.study.study import load_key, load_study
from wsigen.viewer.http import listen


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return {name: write_set(folder, name, odd=name == "real", count=1) for name in ("real", "synthetic")}


@pytest.fixture
def study(slides, tmp_path):
    return make_study(config(**slides, out=tmp_path / "s", kind="2afc", count=3, training=1, readers=2))


@pytest.fixture
def app(study):
    store = AnswerStore(study)
    yield make_app(study, store)
    store.close()


def post(app, reader, sent, **more):
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    return ask_app(app, f"/readers/{reader}/answers", method="POST", body=body, **more)


def give(app, reader, choice=0):
    item = ask_app(app, f"/readers/{reader}/item").json
    return post(app, reader, {"number": item["number"], "value": item["choices"][choice], "seconds": 1})


def test_a_reader_goes_through_the_items(study, app):
    reader = study.readers[0]
    about = ask_app(app, f"/readers/{reader}").json
    assert (about["kind"], about["seconds"], about["done"], about["total"], about["training"]) == (
        "2afc",
        10,
        0,
        4,
        1,
    )
    for trial in study.trials(reader):
        item = ask_app(app, f"/readers/{reader}/item").json
        assert item == {
            "number": trial.number, "training": trial.training, "done": trial.number, "total": 4,
            "choices": list(trial.choices), "source": None,
        }  # fmt: skip
        for code in item["choices"]:
            image = ask_app(app, f"/readers/{reader}/images/{code}.png")
            assert (image.status, image.headers["content-type"]) == (200, "image/png")
            stored = (study.folder / "images" / f"{code}.png").read_bytes()
            assert image.body == stored
            assert not {"last-modified", "etag"} & image.headers.keys()  # would tell which set came first
        answer = give(app, reader, choice=1)
        assert answer.status == 200
        assert answer.json == ({"solution": trial.item.solution} if trial.training else {})
    assert ask_app(app, f"/readers/{reader}/item").json == {"number": None, "done": 4, "total": 4}
    assert ask_app(app, f"/readers/{study.readers[1]}").json["done"] == 0
    store = AnswerStore(study)
    assert [a.value for a in store.answers()] == [t.choices[1] for t in study.trials(reader)]
    store.close()


def test_what_is_right_is_never_told_before_the_answer(study, app):
    """Nothing that is served says which image is real, and the server works without the key."""
    key = study.folder / "key.json"
    solutions = {i.code: i.solution for i in study.training}
    truths = load_key(study)
    key.unlink()
    reader, told = study.readers[0], []
    for path in ("", "/item"):
        told.append(ask_app(app, f"/readers/{reader}{path}").body.decode())
    for trial in study.trials(reader):
        answer = give(app, reader)
        assert answer.json == ({"solution": solutions[trial.item.code]} if trial.training else {})
        told.append(ask_app(app, f"/readers/{reader}/item").body.decode())
    whole = " ".join(told)
    assert not any(word in whole for word in ("real0", "synthetic", "tif", '"set"', study.id))
    assert not any(item in whole for item in truths["items"])


@pytest.mark.parametrize(
    "path",
    [
        *("/key.json", "/study.json", "/readers.csv", "/answers.sqlite", "/images/{image}.png"),
        *("/static/key.json", "/static/../key.json", "/static/..%2f..%2fkey.json", "/static/%2e%2e/study.py"),
        *("/readers", "/readers/", "/readers/NOBODY", "/readers/NOBODY/item", "/readers/..%2fkey.json"),
        *("/readers/NOBODY/images/{image}.png", "/readers/{reader}/key.json", "/readers/{reader}/item/x"),
        *("/readers/{reader}/images/../../../key.json", "/readers/{reader}/images/..%2fkey.json"),
        *("/readers/{reader}/images/..%2f..%2fkey.json.png", "/readers/{reader}/images/%2e%2e%2fkey.png"),
        *("/readers/{reader}/images/{later}.png", "/readers/{reader}/images/.png", "//etc/passwd"),
        "/readers/{reader}/images/{image}.png%00",
    ],
)
def test_nothing_else_is_served(study, app, path):
    reader = study.readers[0]
    trials = study.trials(reader)
    names = {"reader": reader, "image": trials[0].choices[0], "later": trials[1].choices[0]}
    answer = ask_app(app, path.format(**names))
    assert answer.status == 404
    assert not any(word in answer.body for word in (b"slide", b"items", b"PNG", b"SQLite", b"root:"))


def test_images_of_other_readers_and_of_answered_items_are_not_shown(study, app):
    reader, other = study.readers
    first = study.trials(reader)[0].choices[0]
    assert ask_app(app, f"/readers/{reader}/images/{first}.png").status == 200
    assert ask_app(app, f"/readers/{other}/images/{first}.png").status == 200  # training is the same for all
    give(app, reader)
    assert ask_app(app, f"/readers/{reader}/images/{first}.png").status == 404


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (b"{", 400, "an object of number, value and seconds"),
        (b"[]", 400, "an object"),
        ({"number": 0, "seconds": 1}, 400, "an object"),
        ({"number": "0", "value": "x", "seconds": 1}, 400, "number must be whole"),
        ({"number": 0, "value": "x", "seconds": -1}, 400, "seconds 0 or more"),
        ({"number": 0, "value": "x", "seconds": 1e999}, 400, "seconds 0 or more"),
        (
            {"number": 0, "value": "x", "seconds": 1},
            409,
            "the answer must be the code of an image of the item, got x",
        ),
        ({"number": 2, "value": "x", "seconds": 1}, 409, "the next item is 0, got an answer to 2"),
        ({"number": 0, "value": "x" * 5000, "seconds": 1}, 413, "at most 4096 bytes"),
    ],
)
def test_answers_that_are_none_change_nothing(study, app, sent, status, said):
    reader = study.readers[0]
    answer = post(app, reader, sent)
    assert answer.status == status
    assert said in answer.body.decode()
    assert ask_app(app, f"/readers/{reader}").json["done"] == 0


def test_pages_from_elsewhere_cannot_answer(study, app):
    reader = study.readers[0]
    sent = {"number": 0, "value": study.trials(reader)[0].choices[0], "seconds": 1}
    assert post(app, reader, sent, content_type="text/plain").status == 415
    assert post(app, reader, sent, host="evil.example").status == 421
    assert post(app, "NOBODY", sent).status == 404
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask_app(app, f"/readers/{reader}/answers", method=method).status == 405
    assert ask_app(app, f"/readers/{reader}/item", method="POST").status == 405
    assert ask_app(app, f"/readers/{reader}").json["done"] == 0
    headers = ask_app(app, f"/readers/{reader}/item").headers
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'self'" in headers["content-security-policy"]


def test_the_page_is_there_and_loads_nothing_from_elsewhere(app):
    page = ask_app(app, "/")
    assert page.status == 200
    assert b"/static/study.js" in page.body
    assert b"http" not in page.body
    for name in ("study.js", "study.css", "openseadragon.min.js"):
        assert ask_app(app, f"/static/{name}").status == 200
    assert ask_app(app, "/static/viewer.js").status == 404


def test_an_image_that_is_gone_is_an_error_of_the_server(study, app, caplog):
    reader = study.readers[0]
    code = study.trials(reader)[0].choices[0]
    (study.folder / "images" / f"{code}.png").unlink()
    assert ask_app(app, f"/readers/{reader}/images/{code}.png").status == 500
    assert f"{code}.png: an image of the study is missing" in caplog.text


# ---- a process of its own


class Served:
    """``wsigen study serve`` in a process that can be killed."""

    def __init__(self, folder, port=0):
        argv = ["study", "serve", str(folder), "--port", str(port), "--no-browser"]
        start = f"from wsigen.cli.main import main; main({argv!r})"
        self.process = subprocess.Popen([sys.executable, "-c", start], stderr=subprocess.PIPE, text=True)
        lines = iter(self.process.stderr.readline, "")
        self.url = next(word for line in lines for word in line.split() if word.startswith("http://"))

    def ask(self, path, sent=None):
        body = None if sent is None else json.dumps(sent).encode()
        request = Request(self.url + path, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=20) as answer:
            return answer.read()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stderr.close()


def test_kill_minus_9_loses_no_answer(study):
    """The process is killed at once after each answer; a new one continues with the next item."""
    (reader, _), given = study.readers, []
    for trial in study.trials(reader)[:3]:
        served = Served(study.folder)
        try:
            item = json.loads(served.ask(f"readers/{reader}/item"))
            assert item["number"] == trial.number
            assert item["choices"] == list(trial.choices)
            pixels = np.asarray(
                Image.open(io.BytesIO(served.ask(f"readers/{reader}/images/{trial.choices[0]}.png")))
            )
            value = trial.choices[0 if is_real(pixels) else 1]
            served.ask(
                f"readers/{reader}/answers", {"number": item["number"], "value": value, "seconds": 2.5}
            )
        finally:
            served.kill()
        given.append(value)
        store = AnswerStore(load_study(study.folder))
        assert [a.value for a in store.answers()] == given
        store.close()
    key = load_key(study)["items"]
    assert given == [key[t.item.code] for t in study.trials(reader)[:3]]


def test_mistakes_of_the_command_are_one_line(study, tmp_path, capsys):
    def refused(*argv):
        with pytest.raises(SystemExit) as caught:
            main.main(["study", *map(str, argv)])
        assert caught.value.code == 2
        (error,) = capsys.readouterr().err.strip().splitlines()[-1:]
        return error

    assert "none/study.json: no study here" in refused("serve", tmp_path / "none")
    assert "--port must be between" in refused("serve", study.folder, "--port", 70000)
    assert "the first argument must be one of make, serve, report, got 'paint'" in refused("paint")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        error = refused("serve", study.folder, "--port", port)
    assert f"--port {port} (Address already in use)" in error


def test_a_second_server_of_a_study_is_refused(study, capsys):
    served = Served(study.folder)
    try:
        with pytest.raises(SystemExit):
            main.main(["study", "serve", str(study.folder), "--port", "0"])
        assert "being served or read by another process" in capsys.readouterr().err
        with pytest.raises(urllib.error.HTTPError) as caught:
            served.ask("key.json")
        assert caught.value.code == 404
        caught.value.close()
        assert json.loads(served.ask(f"readers/{study.readers[0]}"))["total"] == 4
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=20) == 0
    finally:
        served.kill()
