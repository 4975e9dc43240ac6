"""`cdvqa serve`: the page and its endpoints answer as `Network.ask` does, and refuse what they should in one line."""

import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from cdvqa.cli import main
from cdvqa.deploy import serve
from cdvqa.deploy.network import Network, load
from cdvqa.sparsity import Subnetwork
from tests.chromium import Page, find_chromium
from tests.conftest import CONF, overlay, the_run
from tests.test_predict import scatter

QUESTION = "how many red things are there?"
DENSE, MASKED, SEEING = "stage1_bce", "stage2_bce+bce_mask_uniform_s50", "stage1_ce"
WORLD_HOSTS = ["127.0.0.1", "localhost"]


@pytest.fixture(scope="module")
def runs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dense LXMERT, a masked one and an mPLUG, with weights far enough apart to differ in their answers."""
    folder = tmp_path_factory.mktemp("served")
    found = {}
    mplug = ["--config", str(CONF / "mplug.yaml"), f"--data.tokenizer={scenes / 'mplug'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, config, more in ((DENSE, "bce", []), (MASKED, "bce", []), (SEEING, "ce", mplug)):
            short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
            flags = [*overlay(scenes), *more, *short]
            assert main(["fit", "--config", f"{name.partition('_')[0]}_{config}.yaml", *flags]) == 0
            runs = folder / "logs" / "scenes" / ("mplug" if name == SEEING else "lxmert")
            found[name] = the_run(name, runs=runs)
    for seed, path in enumerate((found[DENSE] / "model.safetensors", found[MASKED] / "subnetwork.safetensors")):
        network = Subnetwork.load(path)
        scatter(network.state, seed)
        network.state |= {name: network.state[name] * mask for name, mask in network.masks.items()}
        network.save(path)
    return found


@pytest.fixture(scope="module")
def networks(runs: dict[str, Path]) -> dict[str, Network]:
    return {name: load(path) for name, path in runs.items()}


def client_of(*networks: Network) -> TestClient:
    app = serve.application(serve.Panel(networks), WORLD_HOSTS)
    return TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False)


@pytest.fixture
def client(networks: dict[str, Network]) -> TestClient:
    """Of both LXMERTs."""
    return client_of(networks[DENSE], networks[MASKED])


@pytest.fixture
def seeing(networks: dict[str, Network]) -> TestClient:
    """Of an LXMERT and the mPLUG."""
    return client_of(networks[DENSE], networks[SEEING])


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def refusal(answer: Any, status: int) -> str:
    """The text of an error, which is one line of JSON."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and "\n" not in answer.text and "Traceback" not in answer.text
    return answer.json()["error"]


def send(client: TestClient, content: bytes, question: str = QUESTION) -> Any:
    return client.post("/api/ask", data={"question": question}, files={"image": ("name.png", content)})


def test_two_networks_answer_as_ask_does(client, networks, scenes):
    records = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())
    differing = 0
    for record in records[:4]:
        about = {"question": record["question"], "image_id": record["image_id"]}
        replies = client.post("/api/ask", json=about).json()["replies"]
        said = [networks[name].ask(**about) for name in (DENSE, MASKED)]
        for found, expected in zip(replies, said, strict=True):
            for part in ("answers", "prior"):
                assert [answer["text"] for answer in found[part]] == [text for text, _ in getattr(expected, part)]
                shares = [share for _, share in getattr(expected, part)]
                assert [answer["share"] for answer in found[part]] == pytest.approx(shares, rel=1e-5)
            assert found["question_type"] == expected.question_type != ""
            assert found["milliseconds"] > 0 and len(found["answers"]) == 5 and found["prior"]
        differing += replies[0]["answers"][0]["text"] != replies[1]["answers"][0]["text"]
    assert differing > 0, "the networks are to differ, so that a mix-up is seen"


def test_what_the_page_shows_of_networks_images_and_questions(client, runs, scenes):
    found = client.get("/api/networks").json()["networks"]
    assert [one["name"] for one in found] == [f"{runs[name].parent.name}/seed0" for name in (DENSE, MASKED)]
    assert {(one["backbone"], one["takes_pictures"]) for one in found} == {("lxmert", False)}
    records = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())
    record = records[-1]
    about = client.get(f"/api/images/{record['image_id']}").json()
    assert about["picture"] and record["image_id"] == about["image_id"]
    own = {one["question"] for one in records if one["image_id"] == record["image_id"]}
    assert own & set(about["questions"]) and len(about["questions"]) <= 6
    picture = client.get(f"/image/{record['image_id']}")
    assert picture.content == (scenes / "images" / f"{record['image_id']}.png").read_bytes()
    assert picture.headers["content-type"] == "image/png"
    page = client.get("/")
    assert runs[MASKED].parent.name in page.text and "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://|src=\"//", page.text), "the page needs no other host"


@pytest.mark.parametrize("number", ["999999", "-1", "x", "..%2f..%2fworld.json", "9" * 5000])
def test_an_unknown_image_is_refused(client, number):
    for address in (f"/image/{number}", f"/api/images/{number}"):
        assert refusal(client.get(address), 404)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"question": QUESTION, "image_id": 999_999}, 404, "no image 999999 in the data"),
        ({"question": QUESTION, "image_id": -(2**63)}, 404, "no image -9223372036854775808"),
        ({"question": QUESTION, "image_id": 10**30}, 400, "give image_id"),
        ({"question": QUESTION}, 400, "give image_id"),
        ({"question": QUESTION, "image_id": True}, 400, "give image_id"),
        ({"question": QUESTION, "image_id": "1"}, 400, "give image_id"),
        ({"question": "x" * 201, "image_id": 1}, 400, "a question has 1 to 200 characters"),
        ({"question": "  ", "image_id": 1}, 400, "a question has 1 to 200 characters"),
        ({"question": ["x"], "image_id": 1}, 400, "a question has 1 to 200 characters"),
        ([1], 400, "send a JSON object"),
    ],
)
def test_a_wrong_question_is_refused(client, body, status, message):
    assert message in refusal(client.post("/api/ask", json=body), status)


def test_a_question_of_200_characters_is_answered(client, scenes):
    image_id = json.loads((scenes / "vqacp_v2_test_questions.json").read_text())[0]["image_id"]
    question = ("how many things " * 20)[:200]
    assert client.post("/api/ask", json={"question": question, "image_id": image_id}).status_code == 200
    assert "send a JSON object" in refusal(client.post("/api/ask", content=b"{"), 400)
    assert "send a JSON object" in refusal(client.post("/api/ask", content=b"[" * 100_000), 400)
    assert refusal(client.get("/api/ask"), 405) and refusal(client.get("/nothing"), 404)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_network_that_sees_pixels_takes_an_uploaded_picture(seeing, networks, tmp_path, kind):
    """Turned as its EXIF orientation says, like those of a folder."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(noise(60, 40), kind, exif=exif)
    (tmp_path / "picture").write_bytes(content)
    regions, pixels = send(seeing, content).json()["replies"]
    expected = networks[SEEING].ask(QUESTION, tmp_path / "picture")
    assert pixels["answers"] == [{"text": expected.answers[0].text, "share": None}]
    assert "lxmert sees region features, no pictures" in regions["error"] and "answers" not in regions
    assert [one["takes_pictures"] for one in seeing.get("/api/networks").json()["networks"]] == [False, True]


def test_the_network_is_shown_the_picture_that_was_sent(seeing, networks, monkeypatch):
    """So little trained an mPLUG says the same of every picture, so its input is looked at."""
    asked = []
    monkeypatch.setattr(networks[SEEING], "ask", lambda *args, **more: asked.append(args) or 1 / 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = noise(60, 40)
    answer = send(seeing, encoded(picture, exif=exif))
    assert refusal(answer, 500) == "a defect of cdvqa; its terminal shows it"
    ((question, shown),) = asked
    assert question == QUESTION and np.array_equal(np.asarray(shown), np.rot90(np.asarray(picture), -1))


def png(width: int, height: int) -> bytes:
    """A PNG that says it has this size; its data end at once."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_pictures_that_are_too_large_are_not_decoded(seeing, monkeypatch):
    real, decoded = Image.Image.convert, []
    monkeypatch.setattr(Image.Image, "convert", lambda self, *args: decoded.append(self.size) or real(self, *args))
    assert "5001 x 5000 pixels; send one of at most 25,000,000" in refusal(send(seeing, png(5001, 5000)), 400)
    assert "exceeds limit" in refusal(send(seeing, png(60_000, 60_000)), 400)  # Pillow's own limit
    assert not decoded
    assert send(seeing, encoded(Image.new("1", (5000, 5000)))).status_code == 200 and (5000, 5000) in decoded


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "no JPEG, PNG or WebP"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), "no JPEG, PNG or WebP"),
        (encoded(Image.new("RGB", (9, 9)), "BMP"), "no JPEG, PNG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no JPEG, PNG or WebP"),
        (encoded(noise(99, 99))[:5000], "not a readable image"),
        (encoded(Image.new("I;16", (9, 9))), "more than 8 bits"),
        (b"", "no JPEG, PNG or WebP"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_content(seeing, content, message):
    assert message in refusal(send(seeing, content), 400)


def test_a_request_that_is_too_large_is_refused_before_it_is_read(seeing, monkeypatch):
    monkeypatch.setattr(serve, "RATE", 100)
    fits = encoded(noise(60, 40))
    assert send(seeing, fits + bytes(8_000_000 - len(fits))).status_code == 200
    assert refusal(send(seeing, bytes(8_100_000)), 413) == "the picture has more than 8 MB; send a smaller one"
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 40_000_000:
            sent += 1_000_000
            yield bytes(1_000_000)

    assert refusal(seeing.post("/api/ask", content=endless()), 413)  # its length is not known beforehand
    assert "the form has no file" in refusal(seeing.post("/api/ask", files={"other": ("name.png", fits)}), 400)
    assert refusal(seeing.post("/api/ask", files=[("image", ("a", fits)), ("image", ("b", fits))]), 400)
    assert refusal(send(seeing, fits, "x" * 30_000), 400)
    assert "1 to 200 characters" in refusal(send(seeing, fits, "x" * 201), 400)


def test_a_client_asks_at_most_five_questions_a_second(client, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(serve.time, "monotonic", lambda: now[0])

    def status(client: TestClient = client) -> int:
        return client.post("/api/ask", json={"question": QUESTION, "image_id": 999_999}).status_code

    assert [status() for _ in range(7)] == [404] * 5 + [429] * 2
    other = TestClient(client.app, base_url="http://127.0.0.1", client=("10.0.0.1", 5))
    assert status(other) == 404
    answer = client.post("/api/ask", json={"question": QUESTION, "image_id": 1})
    assert "more than 5 questions a second" in refusal(answer, 429) and answer.headers["retry-after"] == "1"
    assert client.get("/api/networks").status_code == 200
    now[0] += 1.01
    assert status() == 404


def test_another_name_of_this_machine_is_refused(client, networks):
    """A page of another site whose name leads here, by DNS rebinding, sends its own name."""
    for host, status in (
        ("127.0.0.1:7860", 200),
        ("localhost:7860", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ):
        answer = client.get("/api/networks", headers={"Host": host})
        assert answer.status_code == status and ("networks" in answer.text) == (status == 200)
    open_to_all = TestClient(serve.application(serve.Panel([networks[DENSE]]), ["*"]), base_url="http://any.example")
    assert open_to_all.get("/api/networks").status_code == 200


def test_a_network_alone_with_uploaded_pictures_needs_no_data(networks, monkeypatch, tmp_path):
    monkeypatch.setattr(networks[SEEING].data, "images_folder", tmp_path / "absent")
    monkeypatch.setattr(networks[SEEING].data, "root", tmp_path / "absent")
    client = client_of(networks[SEEING])
    (reply,) = send(client, encoded(noise(60, 40))).json()["replies"]
    assert reply["answers"] and client.get("/").status_code == 200
    assert refusal(client.post("/api/ask", json={"question": QUESTION, "image_id": 1}), 404)


def test_what_cannot_be_served_is_refused_in_one_line(runs, capsys, monkeypatch, tmp_path):
    def error_of(*args: str | Path) -> str:
        assert main(["serve", *map(str, args)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("cdvqa serve: ") and error.count("\n") == 1
        return error

    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert f"--port {port}: Address already in use; choose another" in error_of(runs[DENSE], f"--port={port}")
    assert "port must be 0-65535" in error_of(runs[DENSE], "--port=70000")
    assert "--host no.such.host.invalid" in error_of(runs[DENSE], "--host=no.such.host.invalid")
    assert "no such run folder or network file" in error_of(tmp_path / "absent", "--port=0")
    assert "NETWORK: missing; `cdvqa serve --help`" in error_of()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "uvicorn is not installed; pip install 'cdvqa[serve]'" in error_of(runs[DENSE])


def test_networks_of_different_data_are_refused(networks, monkeypatch):
    monkeypatch.setattr(networks[MASKED].data, "root", Path("elsewhere"))
    with pytest.raises(serve.InputError, match=r"of different data .*name networks of one data set"):
        serve.Panel([networks[DENSE], networks[MASKED]])


@contextmanager
def served(*runs: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address of a real server on a free port, and its process."""

    def interruptible() -> None:
        """A process inherits that its parent ignores interrupts, as one does that was started in the background."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    program = [sys.executable, "-m", "cdvqa", "serve", *map(str, runs), "--port=0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(program, **pipes, preexec_fn=interruptible)
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), process.communicate(timeout=60)
        yield line.split()[0], process
    finally:
        process.kill()
        process.communicate()


def test_a_real_server_ends_by_an_interrupt_without_a_traceback(runs):
    with served(runs[DENSE]) as (address, process):
        connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.request("GET", "/api/networks")
        assert b'"backbone":"lxmert"' in connection.getresponse().read()
        process.send_signal(signal.SIGINT)  # while a client is still connected
        output, errors = process.communicate(timeout=120)
        connection.close()
    assert process.returncode == 130 and errors == "cdvqa serve: interrupted\n" and not output


def test_the_page_in_a_browser(runs, networks, scenes, tmp_path):
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here: install the package chromium")
    with served(runs[DENSE], runs[MASKED]) as (address, _), Page(program, tmp_path) as browser:
        browser.open(address)
        image_id, examples = browser.find("[image.image_id, [...document.querySelectorAll('#examples button')].length]")
        assert examples > 0 and browser.find("document.querySelector('#picture img').naturalWidth") == 128
        for question in (QUESTION, "are there any green things?"):
            answers = ask(browser, question)
            said = [networks[name].ask(question, image_id=image_id) for name in (DENSE, MASKED)]
            best = [reply.answers[0].text for reply in said]
            assert [answer.removesuffix("differs") for answer in answers] == best
            assert answers[1].endswith("differs") == (best[0] != best[1]) and not answers[0].endswith("differs")
            status = browser.find("document.getElementById('status').textContent")
            assert ("differ" in status) == (best[0] != best[1])
            priors = browser.find("[...document.querySelectorAll('.prior li')].length")
            assert priors == sum(len(reply.prior) for reply in said) > 0
        browser.find("document.getElementById('image-id').value = 999999")
        browser.find("document.getElementById('by-id').requestSubmit()")
        wait(browser, "document.getElementById('status').textContent.startsWith('no such image')")
        wide = browser.find("document.documentElement.scrollWidth <= innerWidth")
        assert wide and browser.errors == [text for text in browser.errors if "404" in text]
        assert len(browser.errors) == 1  # the browser reports that answer itself


def ask(browser: Page, question: str) -> list[str]:
    """Write a question and send it, as a user does; what the columns say."""
    browser.find(f"document.getElementById('question').value = {json.dumps(question)}")
    browser.find("document.getElementById('columns').replaceChildren()")
    browser.find("document.getElementById('ask').click()")
    wait(browser, "document.querySelectorAll('.answer').length === 2")
    return browser.find("[...document.querySelectorAll('.answer')].map(one => one.textContent)")


def wait(browser: Page, condition: str) -> None:
    end = time.monotonic() + 60
    while not browser.find(condition):
        assert time.monotonic() < end, f"{condition}: {browser.find('document.body.innerText')}"
        time.sleep(0.05)
