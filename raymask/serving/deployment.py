"""A run's ensemble behind HTTP: this process takes requests in and decodes, a deployment of Ray Serve holds the models."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

import raymask
from raymask.cluster.capacity import usable_nodes
from raymask.cluster.connection import Cluster, check_shared, connect
from raymask.core.console import Display
from raymask.core.errors import InputError, RunError
from raymask.core.machine import usable_cpus, usable_memory
from raymask.core.paths import absolute
from raymask.core.types import Pixels
from raymask.inference.definition import FOLDS, EnsembleDefinition, check_models, read_definition, weights_bytes
from raymask.inference.ensemble import Ensemble
from raymask.inference.predictor import specs_of
from raymask.runs.configs import load_run_config
from raymask.runs.directory import Run
from raymask.runs.models import read_model
from raymask.serving.access import Access
from raymask.serving.admission import Gate
from raymask.serving.app import Backend, PredictionResult, build
from raymask.serving.listener import bound, listening, log_path, writing_down
from raymask.serving.requests import Limits, Refusal
from raymask.serving.schemas import About, Prediction, predictions_of, voted_together

log = logging.getLogger("raymask.server")

APP = "raymask"
MAX_DECODERS = 8
PATIENCE_S = 5.0
CLOSED_BATCHES = 64
MAX_ON_CPUS = 4
"""Processes that hold all models on CPUs, unless more are asked for."""
SHARE_OF_MEMORY, PROCESS_BYTES = 0.5, 2**30
"""Of the machine's memory, what those may take; and what each takes beside the weights."""
TERMINAL = Path("-")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
FAILED = "The models have failed and are started again; try again in a minute."
QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Settings:
    """How a run is served."""

    host: str = "127.0.0.1"
    port: int = 8000
    models: str = FOLDS
    replicas: int | None = None
    """Processes that hold all models; None for one a GPU, or on CPUs as many as fit, up to `MAX_ON_CPUS`."""
    batch_size: int = 16
    batch_wait_ms: float = 10.0
    limits: Limits = field(default_factory=Limits)
    rule: str | None = None
    """Import path of the rule of your own that the run votes by, if it does."""
    access: Access = field(default_factory=Access)
    drain_s: float = 30.0
    """Longest time until all requests under way are answered, when the server is to end."""
    log: Path | None = None
    """File of requests and failures; None for one in the run's folder, `TERMINAL` for none."""

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class ModelDeployment:
    """All models in one process. They compute in one thread of their own, so that the next images come in meanwhile."""

    def __init__(self, folder: Path, models: str, rule: str | None, threads: int, batch_size: int, batch_wait_s: float) -> None:
        from raymask.models.precision import prepare_process

        self.predict.set_max_batch_size(batch_size)
        self.predict.set_batch_wait_timeout_s(batch_wait_s)
        self.batch_size, self.free = batch_size, asyncio.Lock()
        self.closed: deque[tuple[Sequence[Sequence[Pixels]], asyncio.Future[list[PredictionResult]]]] = deque()
        self.worker = ThreadPoolExecutor(1, "models")
        self.worker.submit(prepare_process, threads).result()
        self.ensemble = Ensemble(read_definition(folder, models, rule))
        self.worker.submit(self.predict_images, [None]).result()  # the first pass is slow

    async def ready(self) -> bool:
        """Answers when the models are loaded."""
        return True

    @serve.batch(max_concurrent_batches=CLOSED_BATCHES)  # type: ignore[untyped-decorator]
    async def predict(self, images: list[Sequence[Pixels]]) -> list[PredictionResult]:
        """One image a call, given its pixels for each spec; calls that come together are predicted together.

        Ray Serve closes a batch by the clock, also while the models are busy: with 200 requests under way, batches of up to 16
        had 2 images each. So those that are closed and wait are joined when the models are free.
        """
        mine: asyncio.Future[list[PredictionResult]] = asyncio.get_running_loop().create_future()
        self.closed.append((images, mine))
        async with self.free:
            if not mine.done():
                await self._predict_joined()
        return await mine

    async def _predict_joined(self) -> None:
        joined = [self.closed.popleft()]
        room = self.batch_size - len(joined[0][0])
        while self.closed and len(self.closed[0][0]) <= room:
            joined.append(self.closed.popleft())
            room -= len(joined[-1][0])
        images = [image for batch, _ in joined for image in batch]
        try:
            result = iter(await asyncio.get_running_loop().run_in_executor(self.worker, self.predict_images, images))
        except Exception as error:
            for _, answer in joined:
                answer.set_exception(error)
            return
        for batch, answer in joined:
            answer.set_result(list(islice(result, len(batch))))

    def predict_images(self, images: Sequence[Sequence[Pixels] | None]) -> list[PredictionResult]:
        """What the ensemble says of images; None is a black one."""
        definition, probabilities = self.ensemble.definition, self.ensemble.probabilities([("", image or ()) for image in images])
        joint = definition.count(probabilities)
        rows = list(joint) if definition.grouping.tasks else [None] * len(joint)
        return [
            PredictionResult(prediction, 0 if index else len(images), row)
            for index, (prediction, row) in enumerate(zip(predictions_of(definition, probabilities, joint), rows, strict=True))
        ]


class Asker:
    """Asks the voters, from the thread in which the HTTP server runs."""

    def __init__(self, voter: DeploymentHandle) -> None:
        self.voter, self.heard = voter, -PATIENCE_S

    async def ask(self, pixels: Sequence[Pixels]) -> PredictionResult:
        """What a voter says of one image."""
        response = self.voter.predict.remote(pixels)
        try:
            result: PredictionResult = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayError, RayServeException):
            log.exception("the models have failed")
            raise Refusal(503, FAILED, {"Retry-After": "10"}) from None
        self.heard = time.monotonic()
        return result

    async def ready(self) -> bool:
        """Whether a voter has answered just now, or does."""
        if time.monotonic() - self.heard < PATIENCE_S:
            return True
        try:
            await asyncio.wait_for(self.voter.ready.remote(), PATIENCE_S)
        except (TimeoutError, RayError, RayServeException):
            return False
        self.heard = time.monotonic()
        return True


def serve_until_stopped(folder: Path, settings: Settings, display: Display | None = None) -> None:
    """Serves a finished run until it is interrupted, on the Ray of `RAY_ADDRESS` or one of its own.

    Raises:
        InputError: the run is not finished, the port is taken, or there are fewer processors than replicas.
        RunError: the models cannot be loaded where Ray runs.
    """
    display = display or Display()
    root = absolute(folder)
    definition = read_definition(root, settings.models, settings.rule)
    check_models(definition.models)
    compute = load_run_config(Run(root)).compute
    with connect(compute) as cluster, _stopped_by_signals():
        grows = not cluster.started_here
        nodes = usable_nodes(compute, settings.replicas or 1, lambda sentence: display.line("ray", sentence), grows=grows)
        display.line("serve", f"loading {len(definition.models)} models of {root.name}")
        with serving(root, definition, settings, replace(cluster, nodes=nodes), display) as replicas:
            where = f"on {replicas} processes" if replicas > 1 else "on one process"
            display.line("serve", f"{settings.url} answers, {where}; its API at {settings.url}/docs; Ctrl-C ends it")
            threading.Event().wait()
        display.line("serve", "ended")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is inside, as it is meant to end. Ray, when it starts, sets a handler of its own."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def serving(
    root: Path, definition: EnsembleDefinition, settings: Settings, cluster: Cluster, display: Display | None = None
) -> Iterator[int]:
    """Serves on a Ray that runs; yields the number of replicas when they are ready, and at the end answers what is under way.

    Raises:
        InputError: the port is taken, Ray serves something already, or has fewer processors than replicas.
        RunError: the models cannot be loaded where Ray runs.
    """
    display = display or Display()
    replicas, resources = plan_replicas(cluster, settings.replicas, weights_bytes(definition.models))
    listener = bound(settings.host, settings.port)
    check_shared(root)
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    if serve.status().applications:
        raise InputError("this Ray serves something already; end that (`serve shutdown`), or leave RAY_ADDRESS empty.")
    file = None if settings.log == TERMINAL else log_path(settings.log, root, settings.port)
    say = partial(display.line, "serve")
    try:
        serve.start(proxy_location="Disabled", logging_config=QUIET)
        handle = serve.run(application(root, settings, replicas, resources), name=APP, route_prefix=None, logging_config=QUIET)
        asker, gate = Asker(handle), Gate(settings.limits)
        backend = Backend(
            about(root, definition, settings.models),
            specs_of(definition.models),
            asker.ask,
            asker.ready,
            at_once=2 * replicas * settings.batch_size,
            together=partial(together, definition) if definition.grouping.tasks else None,
            log=file.name if file else "the terminal",
        )
        threads = min(MAX_DECODERS, usable_cpus())
        app = build(backend, settings.limits, threads, settings.access, gate)
        for line in notices(settings, file):
            say(line)
        with writing_down(file), listening(app, listener, gate, settings.drain_s, say):
            yield replicas
    except (RuntimeError, RayError, RayServeException) as error:
        raise RunError(f"'{root}' cannot be served ({_why(error)}).") from error
    finally:
        listener.close()
        _shut_down()


def together(definition: EnsembleDefinition, results: Sequence[PredictionResult]) -> list[Prediction]:
    """What is said of images that are all of one group, from what is said of each alone."""
    joint = np.stack([result.joint for result in results if result.joint is not None])
    return voted_together(definition, [result.prediction for result in results], joint)


def notices(settings: Settings, file: Path | None) -> list[str]:
    """What an operator is told at the start."""
    lines = [f"requests and failures are written down in {file}"] if file else []
    if not settings.access.token and settings.host not in LOOPBACK:
        lines.append(f"warning: whoever reaches {settings.host} may ask; --token-file or RAYMASK_TOKEN keeps others out")
    return lines


def _why(error: Exception) -> str:
    """The last line of what a deployment says; Ray Serve's own error only says which of them it was."""
    status = serve.status().applications.get(APP)
    messages = [deployment.message for deployment in status.deployments.values()] if status else []
    lines = [line.strip() for message in [str(error), *messages] for line in message.splitlines() if line.strip()]
    return lines[-1].removesuffix(".") if lines else type(error).__name__


def _shut_down() -> None:
    """Ends Ray Serve, which ends its controller by a way that Ray tells of as of a failure, a moment later."""
    with redirect_stdout(io.StringIO()):
        serve.shutdown()
        time.sleep(0.3)


def plan_replicas(cluster: Cluster, wanted: int | None, weights: int) -> tuple[int, dict[str, float]]:
    """How many replicas, and what each of them books of Ray: a GPU where there are any, else its share of the CPUs.

    On CPUs several of few threads answer more than one of many, whose threads wait for each other at every operator: two of
    one thread each gave 1.6 times the answers of one of two, to single images 3.8 times.

    Args:
        cluster: the Ray that runs.
        wanted: so many replicas, None for the default.
        weights: bytes of the models of a replica.

    Raises:
        InputError: there are fewer processors than replicas.
    """
    gpus, cpus = int(sum(node.gpus for node in cluster.nodes)), int(sum(node.cpus for node in cluster.nodes))
    fitting = max(1, int(SHARE_OF_MEMORY * usable_memory() / (PROCESS_BYTES + weights)))
    replicas = wanted or gpus or max(1, min(cpus, MAX_ON_CPUS, fitting))
    if replicas > (gpus or cpus):
        kind, number = ("GPUs", gpus) if gpus else ("CPUs", cpus)
        raise InputError(f"--replicas is {replicas}, but Ray has {number} {kind}.")
    if gpus:
        return replicas, {"num_cpus": 1, "num_gpus": 1}
    return replicas, {"num_cpus": max(1, min(cpus // replicas, int(min(node.cpus for node in cluster.nodes))))}


def application(root: Path, settings: Settings, replicas: int, resources: dict[str, float]) -> serve.Application:
    """The voters.

    Images wait in the voters, whose batches so are full when there are enough of them: Ray Serve's router knocks again at a full
    replica only after a pause. How many are sent there is decided by `raymask.serving.app.Work`.
    """
    return serve.deployment(
        name="voter",
        num_replicas=replicas,
        ray_actor_options=resources,
        max_ongoing_requests=4 * replicas * settings.batch_size,
        max_constructor_retry_count=1,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=5,
        logging_config=QUIET,
    )(ModelDeployment).bind(
        root, settings.models, settings.rule, int(resources["num_cpus"]), settings.batch_size, settings.batch_wait_ms / 1000
    )


def about(root: Path, definition: EnsembleDefinition, models: str) -> About:
    """Which models these are."""
    first = next(iter(definition.models.values()))
    return About(
        name=root.name,
        models=models,
        number=len(definition.models),
        members=list(definition.rounds[0]),
        versions=read_model(first).versions,
        server=raymask.__version__,
        by_group=list(definition.grouping.tasks),
    )
