"""`cdvqa serve`: a local page that answers questions with finished networks, side by side.

It uses Starlette, uvicorn and one plain page, not Gradio: three small packages instead of about twenty, no request
to any other host, and every limit in this file. So few endpoints do not need FastAPI's schemas.
"""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Container, Sequence
from contextlib import suppress
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from jinja2 import StrictUndefined, Template
from PIL import Image

from cdvqa.cli.parsing import call
from cdvqa.data.questions.archives import locate
from cdvqa.data.visual.image_files import picture_paths, upright
from cdvqa.deploy.network import Network, load
from cdvqa.errors import InputError, printable
from cdvqa.inference.graph import library

if TYPE_CHECKING:  # optional; `cdvqa serve --help` works without it
    from starlette.types import ASGIApp

CHARACTERS, RATE = 200, 5  # of a question, at most; questions per second and client
BYTES, PIXELS = 8_000_000, 25_000_000  # of a picture, at most
FORM = 20_000  # bytes of a request besides the picture, at most
SAMPLES, EXAMPLES = 24, 6  # images on the page, and example questions for each
POLICY = "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; style-src 'unsafe-inline'; "
POLICY += "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}


def run(args: list[str]) -> None:
    """Run `cdvqa serve` with command-line arguments."""
    networks = {"metavar": "NETWORK", "nargs": "+", "help": "A run's folder, network file or pushed folder."}
    call(serve, args, {"networks": networks})


def serve(networks: list[str], host: str = "127.0.0.1", port: int = 7860) -> None:
    """Answer questions with one or several finished networks of one data set on a local page, until Ctrl-C.

    Args:
        networks: finished runs' folders, network files, or folders that `cdvqa push` wrote.
        host: address to listen at; 0.0.0.0 lets every machine ask that reaches this one.
        port: of the page; 0 takes a free one.
    """
    uvicorn, *_ = (library(name, "serve") for name in ("uvicorn", "starlette", "python_multipart"))
    with listening(host, port) as own:
        address, number = own.getsockname()[:2]
        names = [host, "localhost", "127.0.0.1", "::1", "[::1]"] if ip_address(address).is_loopback else ["*"]
        app = application(Panel([load(network) for network in networks]), names)
        # No proxy headers: with X-Forwarded-For a client could pretend to be another one.
        quiet = {"log_level": "warning", "access_log": False, "proxy_headers": False, "server_header": False}
        config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", timeout_graceful_shutdown=2, **quiet)
        print(f"http://{f'[{host}]' if ':' in host else host}:{number} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(config).run(sockets=[own])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port; InputError where that is impossible."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", error)).partition(" (while")[0]
        raise InputError(f"--host {host} --port {port}: {reason}; choose another port or address") from error


class Panel:
    """Networks of one data set that answer the same questions, with its images and test questions.

    Raises:
        InputError: the networks have different data, or one that sees regions has no features.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        roots = dict.fromkeys(str(network.data.root.resolve()) for network in networks)
        if len(roots) > 1:
            raise InputError(f"NETWORK: of different data ({', '.join(roots)}); name networks of one data set")
        self.networks = networks
        # A network that takes pixels also works without a folder of images: on uploaded pictures.
        self.images: set[int] = {
            number
            for network in networks
            if network.backbone.image_format is None or network.data.images_folder.is_dir()
            for number in network.data.visual.image_id.tolist()
        }
        self.pictures = picture_files(networks[0].data.images_folder)
        self.questions = test_questions(networks[0])
        for network in networks:  # reads files now instead of at the first question
            reply(network, "what", min(self.images, default=0), None)
        self._lock = Lock()  # one request at a time: two would compete for cores and memory

    def described(self) -> dict[str, Any]:
        """Each network, and sample images spread over the ids; those with pictures and questions are preferred."""
        networks = [
            {"name": one.name, "backbone": one.backbone.name, "takes_pictures": one.backbone.image_format is not None}
            for one in self.networks
        ]
        ids = sorted(self.images)
        for some in (self.questions, self.pictures):
            ids = [number for number in ids if number in some] or ids
        rows = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), SAMPLES)).astype(np.intp))
        return {"networks": networks, "samples": [self.about(ids[row]) for row in rows]}

    def about(self, number: int) -> dict[str, Any]:
        """An image: whether its picture is available, and some test questions about it."""
        questions = list(dict.fromkeys(self.questions.get(number, ())))[:EXAMPLES]
        return {"image_id": number, "picture": number in self.pictures, "questions": questions}

    def replies(self, question: str, image_id: int | None, content: bytes | None) -> list[dict[str, Any]]:
        """The reply of each network about an image or an uploaded file; InputError if the file is no picture."""
        with self._lock:
            picture = None if content is None else upright(BytesIO(content), PIXELS)
            return [reply(network, question, image_id, picture) for network in self.networks]


def reply(network: Network, question: str, image_id: int | None, picture: Image.Image | None) -> dict[str, Any]:
    """The reply of one network as JSON values, or the error that it gives."""
    if picture is not None and network.backbone.image_format is None:
        return {"error": f"{network.backbone.name} sees region features, no pictures; choose an image of the data"}
    try:
        replied = network.ask(question, picture, image_id=image_id)
    except InputError as error:
        return {"error": printable(str(error))}
    answers, prior = ([answer._asdict() for answer in some] for some in (replied.answers, replied.prior))
    return {**vars(replied), "answers": answers, "prior": prior}


def picture_files(folder: Path) -> dict[int, Path]:
    """The pictures in a folder, which may be absent, by image id."""
    try:
        return picture_paths(folder)
    except InputError as error:
        print(f"pictures left out: {error}")
        return {}


def test_questions(network: Network) -> dict[int, list[str]]:
    """The questions of the test splits of a network's data, by image id."""
    found: dict[int, list[str]] = defaultdict(list)
    try:
        for name, files in network.data.data_set.present(network.data.root).items():
            if name not in ("train", "dev"):
                questions = network.data.data_set.read_questions(locate(network.data.root, files.questions))
                for number, text in zip(questions.image_id.tolist(), questions.text, strict=True):
                    found[number].append(text)
    except InputError as error:
        print(f"test questions left out: {error}")
    return dict(found)


def application(panel: Panel, hosts: list[str]) -> ASGIApp:
    """The page and its endpoints. Requests must name one of `hosts` (`*`: any), which prevents DNS rebinding."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse
    from starlette.routing import Route

    shown, by_name = panel.described(), {str(number): number for number in panel.images}
    template = Template(Path(__file__).with_suffix(".html").read_text(), autoescape=True, undefined=StrictUndefined)
    page = template.render(shown=shown, bytes=BYTES, characters=CHARACTERS)
    recent: list[tuple[float, str]] = []

    def check_rate(client: str) -> None:
        now = time.monotonic()
        recent[:] = [(when, who) for when, who in recent if when > now - 1]
        if sum(who == client for _, who in recent) >= RATE:
            raise HTTPException(429, f"more than {RATE} questions a second; wait a second", {"Retry-After": "1"})
        recent.append((now, client))

    async def read(request: Request) -> tuple[dict[str, Any], bytes | None]:
        """The fields of a request, and the content of its picture, if it has one."""
        left = BYTES + FORM

        async def receive() -> Any:
            nonlocal left
            message = await request.receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"the picture has more than {BYTES // 1_000_000} MB; send a smaller one")
            return message

        limited = Request(request.scope, receive)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with limited.form(max_files=1, max_fields=1, max_part_size=FORM) as form:
                if not isinstance(file := form.get("image"), UploadFile):
                    raise HTTPException(400, "the form has no file `image`")
                return {"question": form.get("question")}, await file.read()
        with suppress(ValueError):
            if isinstance(content := orjson.loads(await limited.body()), dict):
                return content, None
        raise HTTPException(400, "send a JSON object, or a form with a picture")

    async def ask(request: Request) -> JSONResponse:
        check_rate(request.client.host if request.client else "")
        fields, content = await read(request)
        question, image_id = fields.get("question"), fields.get("image_id")
        if not isinstance(question, str) or not question.strip() or len(question) > CHARACTERS:
            raise HTTPException(400, f"a question has 1 to {CHARACTERS} characters")
        if content is None and type(image_id) is not int:
            raise HTTPException(400, "give image_id, a whole number, or a picture")
        if content is None and image_id not in panel.images:
            raise HTTPException(404, f"no image {image_id} in the data")
        return JSONResponse({"replies": await run_in_threadpool(panel.replies, question, image_id, content)})

    def wanted(request: Request, known: Container[int]) -> int:
        number = by_name.get(request.path_params["image_id"])
        if number is None or number not in known:
            raise HTTPException(404, "no such image in the data, or no picture of it")
        return number

    async def about(request: Request) -> JSONResponse:
        return JSONResponse(panel.about(wanted(request, panel.images)))

    async def picture(request: Request) -> FileResponse:
        return FileResponse(panel.pictures[wanted(request, panel.pictures)], headers=HEADERS)

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": printable(error.detail)}, error.status_code, error.headers)
        known = isinstance(error, InputError | ClientDisconnect)
        text = printable(str(error)) if known else "a defect of cdvqa; its terminal shows it"
        return JSONResponse({"error": text}, 400 if known else 500)

    routes = [
        Route("/", HTMLResponse(page, headers=HEADERS), methods=["GET"]),
        Route("/image/{image_id}", picture),
        Route("/api/networks", JSONResponse({"networks": shown["networks"]}), methods=["GET"]),
        Route("/api/images/{image_id}", about),
        Route("/api/ask", ask, methods=["POST"]),
    ]
    handlers = dict.fromkeys((HTTPException, InputError, ClientDisconnect, Exception), refuse)
    return TrustedHostMiddleware(Starlette(routes=routes, exception_handlers=handlers), hosts, www_redirect=False)
