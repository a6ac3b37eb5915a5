"""The server's pages and answers as a FastAPI app: what comes in is checked, decoded and passed on. Without Ray."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf, isnan, nan
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from raymask.data.decode import InputSpec, Pixels
from raymask.ensemble import ByHead
from raymask.inference import Panel, read_content
from raymask.tasks import Probabilities

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO")
"""What is read of strangers: Pillow knows more, among it EPS, for which it would run Ghostscript."""

NO_IMAGE = "the file is no image that can be read"
MOST_IMAGES = 64
TOP = 5
CLOSED = 499
"""What is counted where the client is gone; nginx has the number too."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"


class Elected(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class JointElected(Elected):
    """A class of the joint label, its number among them, and its probability."""

    number: int


class Prediction(BaseModel):
    """What the ensemble says of one image."""

    name: str = Field("", description="the file's name, if it had one")
    labels: dict[str, str] = Field(description="the label of each task; together they are the joint label")
    joint: JointElected
    probabilities: dict[str, dict[str, float]] = Field(description="of each class, by task")
    top: list[JointElected] = Field(description="the most probable joint labels")
    agreement: float = Field(description="share of the models' heads that elect what the ensemble elects")
    members: dict[str, dict[str, Elected]] = Field(description="by member and head: what the mean of its models elects")


class About(BaseModel):
    """Which models answer."""

    name: str = Field(description="the run's name")
    models: str = Field(description="which of the run's models: `folds`, or one a member")
    number: int = Field(description="how many models")
    members: list[str]
    versions: dict[str, str] = Field(description="versions of the packages that the models were trained with")
    server: str = Field(description="version of raymask that answers")


class Answer(BaseModel):
    """What is said of a request's images, in their order."""

    model: About
    predictions: list[Prediction]
    milliseconds: float = Field(description="from the request's arrival to its answer")


class Ready(BaseModel):
    """The models are loaded and answer."""

    status: str = "ready"
    model: About


class Problem(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


class Refusal(Exception):  # noqa: N818
    """A request that gets no prediction; the message says why, in one sentence."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, dict(headers or {})


class Told(NamedTuple):
    """What the models say of one image."""

    prediction: Prediction
    batch: int
    """How many images were predicted with it; 0 for all but the first of them."""


@dataclass(frozen=True)
class Limits:
    """What a request may be."""

    max_mb: float = 10.0
    max_megapixels: float = 25.0
    timeout_s: float = 30.0
    waiting: int = 256
    """Requests at a time; others are sent away."""

    @property
    def most_bytes(self) -> int:
        """Bytes of a request's body."""
        return int(self.max_mb * 1e6)


@dataclass(frozen=True)
class Door:
    """What lies behind the app."""

    about: About
    specs: Sequence[InputSpec]
    """How images are prepared."""
    ask: Callable[[Sequence[Pixels]], Awaitable[Told]]
    """Predicts one image, given its pixels for each spec; may raise `Refusal`."""
    ready: Callable[[], Awaitable[bool]]


def predictions_of(panel: Panel, said: Mapping[str, ByHead]) -> list[Prediction]:
    """What a panel makes of its models' (N, C) probabilities, image by image."""
    space, joint = panel.space, panel.count(said)
    agreement, members = panel.agreement(said, joint), panel.member_probabilities(said)
    marginals = {task: space.marginal(joint, task) for task in space.names}
    elected = space.split(joint.argmax(axis=1))

    def voted(head: str, probabilities: Probabilities) -> Elected:
        label = int(probabilities.argmax())
        return Elected(label=space.classes(head)[label], probability=_rounded(probabilities[label]))

    def ranked(probabilities: Probabilities) -> list[JointElected]:
        order = (-probabilities).argsort(kind="stable")[:TOP].tolist()
        return [
            JointElected(label=space.joint_classes[number], number=number, probability=_rounded(probabilities[number]))
            for number in order
        ]

    predictions = []
    for image in range(len(joint)):
        top = ranked(joint[image])
        prediction = Prediction(
            labels={task: space.classes(task)[labels[image]] for task, labels in elected.items()},
            joint=top[0],
            probabilities={
                task: dict(zip(space.classes(task), map(_rounded, of_task[image]), strict=True))
                for task, of_task in marginals.items()
            },
            top=top,
            agreement=_rounded(agreement[image]),
            members={
                member: {head: voted(head, of_head[image]) for head, of_head in by_head.items()}
                for member, by_head in members.items()
            },
        )
        predictions.append(prediction)
    return predictions


def _rounded(probability: Any) -> float:
    return round(float(probability), 6)


class Metrics:
    """What an operator wants to know, of this process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.waiting = 0
        """Requests that have no answer yet."""
        seconds, images = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60), (1, 2, 4, 8, 16, 32, 64, 128)
        said = "Requests to /predict by the status of their answers"
        self.requests = Counter("raymask_requests", said, ["status"], registry=registry)
        said = "Seconds from a request's arrival to its answer"
        self.seconds = Histogram("raymask_request_seconds", said, buckets=seconds, registry=registry)
        self.images = Counter("raymask_images", "Images predicted", registry=registry)
        said = "Images that the models predicted at once"
        self.batches = Histogram("raymask_batch_images", said, buckets=images, registry=registry)
        waiting = Gauge("raymask_waiting_requests", "Requests to /predict that have no answer yet", registry=registry)
        waiting.set_function(lambda: self.waiting)

    def count(self, status: int, seconds: float, batches: Sequence[int] = ()) -> None:
        """Takes note of an answer and of the sizes of its images' batches, see `Told`."""
        self.requests.labels(str(status)).inc()
        self.seconds.observe(seconds)
        self.images.inc(len(batches))
        for size in filter(None, batches):
            self.batches.observe(size)

    def __str__(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self.registry).decode()


def build(door: Door, limits: Limits, threads: int) -> FastAPI:
    """The app.

    Images are decoded here, by threads, and not where the models are: these compute meanwhile, broken images take no place in
    their batches, and the pixels that they are sent are fewer bytes than most files.

    Args:
        door: what predicts.
        limits: what is refused.
        threads: images that are decoded at a time.
    """
    app = FastAPI(title=f"raymask: {door.about.name}", version=door.about.server, description="Predicts labels of photos.")
    decoders = ThreadPoolExecutor(threads, "decode")
    metrics = Metrics()
    refused: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (400, 413, 415, 422, 503, 504)}
    page = _page(door, limits)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def front() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    @app.post("/predict", response_model=Answer, responses=refused, openapi_extra={"requestBody": _body()})
    async def predict(request: Request) -> Answer:
        """The labels of one photo or of several, sent as a form's files `image` or as JSON in base64."""
        began, status, told = time.perf_counter(), 500, []
        metrics.waiting += 1
        try:
            async with _admitted(metrics, limits):
                told = await _told(request, door, limits, decoders)
            status = 200
        except Refusal as refusal:
            status = refusal.status
            raise
        except asyncio.CancelledError:
            status = CLOSED
            raise
        finally:
            seconds = time.perf_counter() - began
            metrics.waiting -= 1
            metrics.count(status, seconds, [one.batch for one in told])
        return Answer(model=door.about, predictions=[one.prediction for one in told], milliseconds=round(1000 * seconds, 1))

    @app.get("/health", response_model=Ready, responses={503: {"model": Problem}})
    async def health() -> Ready:
        """Whether the models are loaded and answer."""
        if not await door.ready():
            raise Refusal(503, "The models do not answer yet.")
        return Ready(model=door.about)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def count() -> Response:
        """Requests by status, their seconds, and the images in each batch, in Prometheus' text format."""
        return Response(str(metrics), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def lost(request: Request, error: HTTPException) -> JSONResponse:
        where, why = request.url.path, str(error.detail)
        said = {404: f"There is nothing at {where}; see /docs.", 405: f"{where} takes no {request.method}; see /docs."}
        return JSONResponse({"error": said.get(error.status_code, why)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"The server failed ({type(error).__name__}); its log says more."}, 500)

    return app


@asynccontextmanager
async def _admitted(metrics: Metrics, limits: Limits) -> AsyncIterator[None]:
    """Room and time for a request, or its refusal."""
    if metrics.waiting > limits.waiting:
        raise Refusal(503, f"The server is busy with {limits.waiting} requests; try again in a second.", {"Retry-After": "1"})
    try:
        async with asyncio.timeout(limits.timeout_s):
            yield
    except TimeoutError:
        raise Refusal(
            504, f"There was no answer within {limits.timeout_s:g} s; the server is busy, or the upload slow."
        ) from None
    except ClientDisconnect:
        raise Refusal(CLOSED, "The client is gone.") from None


async def _told(request: Request, door: Door, limits: Limits, decoders: ThreadPoolExecutor) -> list[Told]:
    images = await read_images(request, limits)
    loop = asyncio.get_running_loop()

    async def one(name: str, content: bytes) -> Told:
        told = await door.ask(await loop.run_in_executor(decoders, decode_checked, name, content, door.specs, limits))
        told.prediction.name = name
        return told

    asked = [asyncio.ensure_future(one(*image)) for image in images]
    try:
        return list(await asyncio.gather(*asked))
    finally:
        for task in asked:
            task.cancel()


async def read_images(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Names and contents of a request's images.

    Raises:
        Refusal: it has none, it is too large, or it is neither a form nor JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    bounded = Request(request.scope, _bounded(request, limits))
    if kind == "application/json":
        return _from_json(await bounded.body())
    if kind == "multipart/form-data":
        return await _from_form(bounded)
    raise Refusal(415, f"The request is {kind or 'of no type'}; send a form (multipart/form-data) or JSON (application/json).")


def _bounded(request: Request, limits: Limits) -> Receive:
    """Reads the body, until it is too large: by what its header says, or by what has come."""
    too_large = Refusal(413, f"The request is larger than {limits.max_mb:g} MB.", {"Connection": "close"})
    said, come = request.headers.get("content-length", ""), 0
    if said.isdigit() and int(said) > limits.most_bytes:
        raise too_large

    async def receive() -> Message:
        nonlocal come
        message = await request.receive()
        come += len(message.get("body", b""))
        if come > limits.most_bytes:
            raise too_large
        return message

    return receive


def _from_json(body: bytes) -> list[tuple[str, bytes]]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "The request's body is no JSON.") from None
    images = told.get("image") if isinstance(told, dict) else None
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise Refusal(400, 'The JSON has no image; send {"image": "BASE64"}, or a list of them.')
    _check_number(len(images))
    try:
        return [("", base64.b64decode(image, validate=True)) for image in images]
    except (binascii.Error, ValueError):
        raise Refusal(400, "An image is no valid base64.") from None


async def _from_form(request: Request) -> list[tuple[str, bytes]]:
    try:
        async with request.form(max_files=2 * MOST_IMAGES, max_fields=2 * MOST_IMAGES) as form:
            files = [file for file in form.getlist("image") if isinstance(file, UploadFile)]
            _check_number(len(files))
            images = [(file.filename or "", await file.read()) for file in files]
            if form.getlist("image") and not images:
                raise Refusal(400, "The form's field 'image' is no file.")
    except HTTPException as error:
        raise Refusal(400, f"The form cannot be read ({error.detail.rstrip('.')}).") from None
    if not images:
        raise Refusal(400, "The form has no file in a field 'image'.")
    return images


def _check_number(images: int) -> None:
    if images > MOST_IMAGES:
        raise Refusal(413, f"The request has {images} images; send at most {MOST_IMAGES} at a time.")


def decode_checked(name: str, content: bytes, specs: Sequence[InputSpec], limits: Limits) -> list[Pixels]:
    """Pixels of an image for each spec; how many it has is read from its header, before it is decoded.

    Raises:
        Refusal: it is broken or too large.
    """
    whose = f"'{name}': " if name else ""
    megapixels = _megapixels(content) if content else 0.0
    if megapixels > limits.max_megapixels:
        number = f"{megapixels:.4g}" if megapixels < inf else "far too many"
        raise Refusal(422, _sentence(whose, f"the image has {number} megapixels; send at most {limits.max_megapixels:g}"))
    problem, pixels = (NO_IMAGE, []) if isnan(megapixels) else read_content(content, specs)
    if problem:
        raise Refusal(422, _sentence(whose, problem))
    return pixels


def _sentence(whose: str, problem: str) -> str:
    said = f"{whose}{problem}."
    return said[0].upper() + said[1:]


def _megapixels(content: bytes) -> float:
    """By the header alone; nan where it is none of an image."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.width * image.height / 1e6
    except Image.DecompressionBombError:
        return inf
    except Exception:  # Pillow's plugins raise anything
        return nan


def _page(door: Door, limits: Limits) -> str:
    pages = Environment(loader=PackageLoader("raymask"), autoescape=True, undefined=StrictUndefined)
    return pages.get_template("serve.html.j2").render(about=door.about, limits=limits, most_images=MOST_IMAGES)


def _body() -> dict[str, Any]:
    """What /predict takes, as OpenAPI says it; FastAPI itself would read a body whole before it is checked."""
    file = {"type": "string", "format": "binary"}
    text = {"type": "string", "format": "byte", "description": "an image file in base64"}
    form = {"type": "object", "properties": {"image": {"type": "array", "items": file}}, "required": ["image"]}
    posted = {
        "type": "object",
        "properties": {"image": {"anyOf": [text, {"type": "array", "items": text}]}},
        "required": ["image"],
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": form}, "application/json": {"schema": posted}}}
