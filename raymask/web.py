"""The server's pages and answers as a FastAPI app: what comes in is checked, decoded and passed on. Without Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi_offline import FastAPIOffline
from jinja2 import Environment, PackageLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raymask.answers import About, Answer, Prediction, Problem, Ready
from raymask.data.colours import Pixels
from raymask.data.decode import InputSpec
from raymask.uploads import MOST_IMAGES, Limits, Refusal, check_sizes, decode_checked, read_images

CLOSED = 499
"""What is counted where the client is gone; nginx has the number too."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"


class Told(NamedTuple):
    """What the models say of one image."""

    prediction: Prediction
    batch: int
    """How many images were predicted with it; 0 for all but the first of them."""


@dataclass(frozen=True)
class Door:
    """What lies behind the app."""

    about: About
    specs: Sequence[InputSpec]
    """How images are prepared."""
    ask: Callable[[Sequence[Pixels]], Awaitable[Told]]
    """Predicts one image, given its pixels for each spec; may raise `Refusal`."""
    ready: Callable[[], Awaitable[bool]]


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
    title = f"raymask: {door.about.name}"
    app = FastAPIOffline(title=title, version=door.about.server, description="Predicts labels of photos.")
    decoders = ThreadPoolExecutor(threads, "decode")
    metrics = Metrics()
    refused: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (400, 413, 415, 422, 503, 504)}
    page = _page(door, limits)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def front() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    body = {"requestBody": _body()}

    @app.post("/predict", summary="Labels of photos", response_model=Answer, responses=refused, openapi_extra=body)
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

    @app.get("/health", summary="Readiness", response_model=Ready, responses={503: {"model": Problem}})
    async def health() -> Ready:
        """Whether the models are loaded and answer."""
        if not await door.ready():
            raise Refusal(503, "The models do not answer yet.")
        return Ready(model=door.about)

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
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
    await loop.run_in_executor(decoders, check_sizes, images, limits)

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
