"""The server's pages and answers as a FastAPI app: what comes in is checked, decoded and passed on. Without Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from jinja2 import Environment, PackageLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raymask.core.types import Pixels, Probabilities
from raymask.data.specs import InputSpec
from raymask.serving.access import Access, Guard
from raymask.serving.admission import LEAVE, Gate, leaving
from raymask.serving.gauges import Metrics
from raymask.serving.requests import MAX_NAME, Limits, Refusal, check_sizes, decode_checked, is_one_group, read_images
from raymask.serving.schemas import About, Answer, Prediction, Problem, Ready
from raymask.serving.turns import Turns

Result = TypeVar("Result")
REFUSED = (400, 401, 403, 408, 413, 415, 421, 422, 431, 503, 504)
EVERYBODY = Access()
ONE_GROUP = {
    "name": "one_group",
    "in": "query",
    "description": "whether the images are all of one group, such as a person; tasks that the run votes by group (`by_group` of "
    "the model) are then voted over all of them",
    "schema": {"type": "boolean", "default": False},
}
"""What OpenAPI says of the one parameter of /predict, which is read by `is_one_group`."""


class PredictionResult(NamedTuple):
    """What the models say of one image."""

    prediction: Prediction
    batch: int
    """How many images were predicted with it; 0 for all but the first of them."""
    joint: Probabilities | None = None
    """(J,) vote on the image, where the run votes tasks by group."""


@dataclass(frozen=True)
class Backend:
    """What lies behind the app."""

    about: About
    specs: Sequence[InputSpec]
    """How images are prepared."""
    ask: Callable[[Sequence[Pixels]], Awaitable[PredictionResult]]
    """Predicts one image, given its pixels for each spec; may raise `Refusal`."""
    ready: Callable[[], Awaitable[bool]]
    at_once: int = 64
    """Images that are asked of the models at a time; others wait here, where their turns are fair."""
    together: Callable[[Sequence[PredictionResult]], list[Prediction]] | None = None
    """What is said of images that are all of one group; None where the run votes no task by group."""
    log: str = "the terminal"
    """Where more is written of a failure."""


def build(backend: Backend, limits: Limits, threads: int, access: Access = EVERYBODY, gate: Gate | None = None) -> Guard:
    """The app.

    Images are decoded here, by threads, and not where the models are: these compute meanwhile, broken images take no place in
    their batches, and the pixels that they are sent are fewer bytes than most files.

    Args:
        backend: what predicts.
        limits: what is refused.
        threads: images that are decoded at a time.
        access: who may ask.
        gate: counts what is under way; one of its own, if it is not given.
    """
    app = FastAPIOffline(
        title=f"raymask: {backend.about.name}", version=backend.about.server, description="Predicts labels of photos."
    )
    gate = gate or Gate(limits)
    metrics = Metrics(gate)
    asks = [Depends(HTTPBearer(auto_error=False))] if access.token else []  # what /docs asks for; `Guard` checks it
    page = _page(backend, limits, bool(access.token))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def front() -> HTMLResponse:
        return HTMLResponse(page)

    _add_prediction(app, Work(backend, limits, threads, gate), metrics, asks)
    _add_probes(app, backend, gate, metrics, asks)
    _add_refusals(app, backend, gate)
    return Guard(app, access)


def _add_prediction(app: FastAPI, work: Work, metrics: Metrics, asks: Sequence[Any]) -> None:
    refused: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in REFUSED}
    body = {"requestBody": _body(), "parameters": [ONE_GROUP]}

    @app.post(
        "/predict", summary="Labels of photos", response_model=Answer, responses=refused, openapi_extra=body, dependencies=asks
    )
    async def predict(request: Request) -> Answer:
        """The labels of one photo or of several, sent as a form's files `image` or as JSON in base64.

        With `one_group=true` the photos are all of one group, such as a person, by which the run may vote on some tasks.
        """
        began, status, results = time.perf_counter(), 500, list[PredictionResult]()
        try:
            together = work.backend.together if is_one_group(request.query_params) else None
            results = await work.answer(request)
            status = 200
        except Refusal as refusal:
            status = refusal.status
            raise
        except asyncio.CancelledError:  # by the server alone, which ends
            status = 503
            raise Refusal(503, "The server ended before there was an answer; ask again.", LEAVE) from None
        finally:
            seconds = time.perf_counter() - began
            metrics.count(status, seconds, [result.batch for result in results])
        about, predictions = work.backend.about, [result.prediction for result in results]
        by_group = about.by_group if together else []
        return Answer(
            model=about,
            predictions=together(results) if together else predictions,
            by_group=by_group,
            milliseconds=round(1000 * seconds, 1),
        )


def _add_probes(app: FastAPI, backend: Backend, gate: Gate, metrics: Metrics, asks: Sequence[Any]) -> None:
    @app.get("/health", summary="Readiness", response_model=Ready, responses={503: {"model": Problem}})
    async def health() -> Ready:
        """Whether the models are loaded and answer."""
        if gate.draining:
            raise Refusal(503, "The server drains: it answers what is under way, and ends.", LEAVE)
        if not await backend.ready():
            raise Refusal(503, "The models do not answer yet.", {"Retry-After": "1"})
        return Ready(model=backend.about)

    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, responses=text, dependencies=asks)
    async def count() -> Response:
        """Requests by status, their seconds, and the images in each batch, in Prometheus' text format."""
        return Response(str(metrics), media_type=CONTENT_TYPE_LATEST)


def _add_refusals(app: FastAPI, backend: Backend, gate: Gate) -> None:
    """Each error as one sentence of JSON."""

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        headers = {**refusal.headers, **({"Connection": "close"} if gate.draining else {})}
        return JSONResponse({"error": str(refusal)}, refusal.status, headers)

    @app.exception_handler(HTTPException)
    async def lost(request: Request, error: HTTPException) -> JSONResponse:
        where, why = request.url.path[:MAX_NAME], str(error.detail)
        message = {404: f"There is nothing at {where}; see /docs.", 405: f"{where} takes no {request.method}; see /docs."}
        return JSONResponse({"error": message.get(error.status_code, why)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"The server failed ({type(error).__name__}); its log, {backend.log}, says more."}, 500)


class Work:
    """What is done for a request's images: each is decoded and predicted, in fair turns with those of other requests."""

    def __init__(self, backend: Backend, limits: Limits, threads: int, gate: Gate) -> None:
        self.backend, self.limits, self.gate = backend, limits, gate
        self.threads = ThreadPoolExecutor(threads, "decode")
        self.decoding, self.predicting = Turns(threads), Turns(backend.at_once)

    async def answer(self, request: Request) -> list[PredictionResult]:
        """Reads a request's images and predicts them, unless the client goes meanwhile."""
        with leaving():
            with self.gate.upload():
                images = await read_images(request, self.limits)
            request.state.images = len(images)
            async with self.gate.place(sum(len(content) for _, content in images)):
                return await _unless_gone(request, self.predict(images))

    async def predict(self, images: Sequence[tuple[str, bytes]]) -> list[PredictionResult]:
        """What the models say of a request's images."""
        owner = object()
        await self._in_thread(owner, check_sizes, images, self.limits)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._one(owner, *image)) for image in images]
        return [task.result() for task in asked]

    async def _one(self, owner: object, name: str, content: bytes) -> PredictionResult:
        pixels = await self._in_thread(owner, decode_checked, name, content, self.backend.specs, self.limits)
        async with self.predicting.place(owner):
            result = await self.backend.ask(pixels)
        result.prediction.name = name
        return result

    async def _in_thread(self, owner: object, function: Callable[..., Result], *given: Any) -> Result:
        """A place of a thread is held until the function ends, also where nobody waits for it any more: it cannot be stopped."""
        async with self.decoding.place(owner):
            running = asyncio.get_running_loop().run_in_executor(self.threads, lambda: function(*given))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait([running])
                raise


async def _unless_gone(request: Request, working: Coroutine[Any, Any, list[PredictionResult]]) -> list[PredictionResult]:
    """What a request's work comes to, or the end of that work when the client goes."""
    work, gone = asyncio.ensure_future(working), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return await work
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    finally:
        work.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _page(backend: Backend, limits: Limits, token: bool) -> str:
    pages = Environment(loader=PackageLoader("raymask.serving"), autoescape=True, undefined=StrictUndefined)
    return pages.get_template("serve.html.j2").render(about=backend.about, limits=limits, token=token)


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
