"""Tests of the server on Ray Serve, by a real HTTP client: its answers, its batches, and that it leaves Ray as it was."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from PIL import Image
from ray import serve
from ray.util.state import list_actors

import raymask
from raymask.cluster.connection import Cluster, connect
from raymask.cluster.resources import Node
from raymask.config.compute import ComputeConfig
from raymask.config.loading import validate
from raymask.config.recipe import Recipe
from raymask.config.tasks import label_space
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT, heads_of
from raymask.inference.definition import read_definition
from raymask.inference.ensemble import load
from raymask.io.atomic import replacing, write_json
from raymask.models.classifier import build_classifier, save_classifier
from raymask.runs.configs import save_run_config
from raymask.runs.directory import ReplicaId, Run
from raymask.serving.deployment import ModelDeployment, Settings, plan_replicas, serving, together
from raymask.serving.requests import Limits
from raymask.serving.schemas import predictions_of
from raymask.transforms.tta import even
from raymask.voting.calibration import Calibration
from raymask.voting.grouping import Grouping
from raymask.voting.selection import Candidate, Fitted
from raymask.voting.vote import Vote

TASKS = {"mask": {"classes": ["worn", "wrong", "none"]}, "age": {"classes": ["young", "old"]}}
MEMBERS = ("mask", "age", "multi", "joint")
AT_ONCE = 50


def tiny_run(root: Path) -> Run:
    """A run whose two folds of random weights vote by the mean of their probabilities."""
    import torch

    config = validate({"name": root.name, "runs": root.parent, "tasks": TASKS, "members": [{"task": task} for task in MEMBERS]})
    recipe = Recipe.model_validate({"backbone": "test_resnet", "pretrained": False, "image_size": 32, "amp": "off"})
    run, space = Run(root), label_space(config.tasks)
    torch.manual_seed(0)
    for replica in (ReplicaId(task, fold) for task in MEMBERS for fold in range(2)):
        heads = heads_of(replica.member, space)
        model = build_classifier(recipe, heads)
        with torch.no_grad():
            for weights in model.heads.parameters():
                weights.mul_(30)  # as they are made, all photos are alike to them
        with replacing(run.weights(replica)) as draft:
            save_classifier(model, draft)
        classes = {head: space.classes(head) for head in heads}
        told = {"member": replica.member, "classes": classes, "recipe": recipe.model_dump(mode="json")}
        write_json(run.meta(replica), {**told, "versions": {"torch": "9.8.7"}})
    as_said = {head: Calibration(np.ones(size), np.zeros(size)) for head, size in heads_of("multi", space).items()}
    as_said[JOINT] = Calibration(np.ones(space.joint_size), np.zeros(space.joint_size))
    calibrations = {task: {head: as_said[head] for head in heads_of(task, space)} for task in MEMBERS}
    fitted = Fitted(Candidate("soft", "joint", "none"), {JOINT: {}}, {JOINT: None})
    vote = Vote(space, even(["original", "hflip"]), calibrations, fitted, as_said[JOINT])
    members = {task: {"run": str(root), "member": task} for task in MEMBERS}
    prior = np.full(space.joint_size, 1 / space.joint_size).tolist()
    write_json(run.ensemble, {"vote": vote.to_json(), "members": members, "prior": prior})
    save_run_config(run, config)
    return run


def photo(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


PHOTOS = [photo(seed) for seed in range(AT_ONCE)]


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="module")
def server(ray_session: None, run: Run) -> Iterator[httpx.Client]:
    settings = Settings(
        port=free_port(), replicas=1, batch_size=8, batch_wait_ms=50, limits=Limits(max_mb=0.2, max_megapixels=0.01)
    )
    with (
        connect(ComputeConfig()) as cluster,
        serving(run.root, read_definition(run.root), settings, cluster) as replicas,
        httpx.Client(base_url=settings.url, timeout=60) as client,
    ):
        assert replicas == 1
        yield client
    assert ray.is_initialized()
    assert not serve.status().proxies
    with pytest.raises(httpx.ConnectError):
        httpx.get(settings.url + "/health")
    assert ray.get(ray.remote(num_cpus=2)(lambda: "Ray is as it was").remote(), timeout=60) == "Ray is as it was"


def counted(server: httpx.Client, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", server.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


class TestServer:
    def test_it_is_ready_and_has_its_pages(self, server: httpx.Client, run: Run) -> None:
        told = server.get("/health").json()
        assert told["status"] == "ready"
        about = {"name": run.name, "models": "folds", "number": 8, "members": list(MEMBERS), "versions": {"torch": "9.8.7"}}
        assert told["model"] == {**about, "server": raymask.__version__, "by_group": []}
        assert "Choose a photo" in server.get("/").text
        assert "swagger" in server.get("/docs").text

    def test_its_answer_is_what_the_run_says_in_this_process(self, server: httpx.Client, run: Run) -> None:
        ensemble = load(run.root)
        table = ensemble.predict(PHOTOS[:5])
        files = [("image", (f"{number}.png", content)) for number, content in enumerate(PHOTOS[:5])]
        by_form = server.post("/predict", files=files).json()
        images = [base64.b64encode(content).decode() for content in PHOTOS[:5]]
        by_json = server.post("/predict", json={"image": images}).json()
        assert len({row["joint"] for row in table.to_dict("records")}) > 1
        for form, posted, row in zip(by_form["predictions"], by_json["predictions"], table.to_dict("records"), strict=True):
            assert posted["labels"] == form["labels"]
            assert posted["members"].keys() == form["members"].keys()
            assert form["name"] == f"{row['image_id']}.png"
            assert form["labels"] == {task: row[task] for task in TASKS}
            assert form["joint"]["number"] == row[JOINT]
            assert form["agreement"] == pytest.approx(row["agreement"], abs=1e-5)
            for task, classes in form["probabilities"].items():
                assert classes == pytest.approx({name: row[f"{task}:{name}"] for name in TASKS[task]["classes"]}, abs=1e-4)
            for one in form["top"]:
                assert one["probability"] == pytest.approx(row[f"{JOINT}:{one['label']}"], abs=1e-4)
            assert [one["probability"] for one in form["top"]] == sorted(
                (one["probability"] for one in form["top"]), reverse=True
            )
            assert set(form["members"]) == set(MEMBERS)
            assert set(form["members"]["multi"]) == set(TASKS)

    def test_a_members_vote_is_that_of_the_mean_of_its_models(self, run: Run) -> None:
        ensemble = load(run.root)
        said = ensemble.probabilities([("", pixels) for _, pixels in map(ensemble_reader(ensemble), PHOTOS[:4])])
        for image, prediction in enumerate(predictions_of(ensemble.definition, said, ensemble.definition.count(said))):
            mean = (said["joint/fold-0"][JOINT][image] + said["joint/fold-1"][JOINT][image]) / 2
            vote = prediction.members["joint"][JOINT]
            assert vote.label == ensemble.definition.space.joint_classes[mean.argmax()]
            assert vote.probability == pytest.approx(mean.max(), abs=1e-5)

    def test_requests_that_come_together_are_predicted_together(self, server: httpx.Client) -> None:
        images, batches = counted(server, "raymask_images_total"), counted(server, "raymask_batch_images_count")
        alone = [server.post("/predict", files={"image": content}).json() for content in PHOTOS[:2]]
        assert counted(server, "raymask_batch_images_count") == batches + 2
        with ThreadPoolExecutor(AT_ONCE) as clients:
            answers = list(clients.map(lambda content: server.post("/predict", files={"image": content}), PHOTOS))
        assert {answer.status_code for answer in answers} == {200}
        said = [answer.json()["predictions"][0] for answer in answers]
        assert [one["labels"] for one in said[:2]] == [told["predictions"][0]["labels"] for told in alone]
        assert counted(server, "raymask_images_total") == images + AT_ONCE + 2
        assert counted(server, "raymask_batch_images_sum") == images + AT_ONCE + 2
        assert counted(server, "raymask_batch_images_count") - batches - 2 <= AT_ONCE / 2
        assert counted(server, 'raymask_batch_images_bucket{le="8.0"}') == counted(server, "raymask_batch_images_count")

    @pytest.mark.parametrize(
        ("body", "status", "why"),
        [
            ({"files": {"image": b"text"}}, 422, "no image"),
            ({"files": {"image": PHOTOS[0][:100]}}, 422, "broken"),
            ({"files": {"image": bytes(300_000)}}, 413, "0.2 MB"),
            ({"files": {"photo": PHOTOS[0]}}, 400, "'image'"),
            ({"json": {"image": "%"}}, 400, "base64"),
            ({"content": PHOTOS[0], "headers": {"content-type": "image/png"}}, 415, "image/png"),
        ],
    )
    def test_what_it_refuses(self, server: httpx.Client, body: dict[str, Any], status: int, why: str) -> None:
        answer = server.post("/predict", **body)
        assert answer.status_code == status, answer.text
        assert why in answer.json()["error"]
        assert counted(server, f'raymask_requests_total{{status="{status}"}}') >= 1

    def test_an_image_of_too_many_pixels(self, server: httpx.Client) -> None:
        file = io.BytesIO()
        Image.new("L", (200, 100)).save(file, "PNG")
        answer = server.post("/predict", files={"image": file.getvalue()})
        assert answer.status_code == 422
        assert "0.02 megapixels" in answer.json()["error"]

    def test_a_body_of_unknown_length_is_cut_off(self, server: httpx.Client) -> None:
        def endless() -> Iterator[bytes]:
            for _ in range(1000):
                yield bytes(10_000)

        try:
            answer = server.post("/predict", content=endless(), headers={"content-type": "application/json"})
        except httpx.TransportError:  # the connection is closed while it still sends
            pass
        else:
            assert answer.status_code == 413
        assert server.get("/health").status_code == 200

    def test_another_server_on_the_same_ray_is_refused(self, server: httpx.Client, run: Run) -> None:
        with (
            connect(ComputeConfig()) as cluster,
            pytest.raises(InputError, match="serves something already"),
            serving(run.root, read_definition(run.root), Settings(port=free_port()), cluster),
        ):
            pass
        assert server.get("/health").status_code == 200


class TestDrain:
    """The real command, by a real signal."""

    @pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_loses_no_request(self, run: Run, sent: signal.Signals, tmp_path: Path) -> None:
        port, log = free_port(), tmp_path / "requests.log"
        command = [sys.executable, "-m", "raymask.cli", "serve", str(run.root), "--port", str(port), "--log", str(log)]
        command += ["--batch-size", "1", "--replicas", "1"]  # so that the models are busy for seconds
        command += ["--drain-s", "100", "--timeout-s", "100"]  # however slow the machine is
        url, files = f"http://127.0.0.1:{port}", [("image", (f"{place}.png", PHOTOS[place])) for place in range(8)]
        with (
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
            ) as server,
            ended(server),
            ThreadPoolExecutor(8) as clients,
        ):
            until = time.monotonic() + 120
            while not answers(url) and time.monotonic() < until and server.poll() is None:
                time.sleep(0.2)
            under_way = [clients.submit(httpx.post, f"{url}/predict", files=files, timeout=120) for _ in range(8)]
            while "raymask_waiting_requests 8.0" not in httpx.get(f"{url}/metrics").text:
                assert not any(answer.done() for answer in under_way)
                time.sleep(0.02)
            if sent == signal.SIGINT:
                os.killpg(server.pid, sent)  # as a terminal does: to all that the command started
            else:
                os.kill(server.pid, sent)
            time.sleep(0.2)
            late = [httpx.get(f"{url}/health"), httpx.post(f"{url}/predict", files=files[:1])]
            assert [answer.result().status_code for answer in under_way] == [200] * 8
            assert all(len(answer.result().json()["predictions"]) == 8 for answer in under_way)
            assert server.wait(60) == 0
            said = server.stdout.read() if server.stdout else ""
        assert [answer.status_code for answer in late] == [503, 503]
        assert "drains" in late[0].json()["error"]
        assert late[1].headers["connection"] == "close"
        assert "8 requests are under way, answered within 100 s" in said
        assert str(log) in said
        assert "Traceback" not in said
        assert log.read_text().count("POST /predict 200 ") == 8


@contextmanager
def ended(server: subprocess.Popen[str]) -> Iterator[None]:
    """Leaves no server behind where a test fails."""
    try:
        yield
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class TestHealing:
    def test_killed_models_come_back(self, server: httpx.Client) -> None:
        """While they do not answer, it is said so; no request hangs."""
        here = ray.get_runtime_context().gcs_address  # whatever other Rays there are on this machine
        actors = list_actors(address=here, filters=[("state", "=", "ALIVE")])
        voters = [row for row in actors if "ServeReplica:raymask:voter" in row.class_name]
        assert len(voters) == 1
        os.kill(voters[0].pid, signal.SIGKILL)
        statuses: list[int] = []
        until = time.monotonic() + 120
        while statuses[-3:] != [200] * 3 and time.monotonic() < until:
            statuses.append(server.post("/predict", files={"image": PHOTOS[0]}).status_code)
            time.sleep(0.05)
        assert statuses[-3:] == [200] * 3
        assert set(statuses) <= {200, 503}


def ensemble_reader(ensemble: Any) -> Any:
    from raymask.data.images import read_content

    return lambda content: read_content(content, ensemble.specs)


class TestTogether:
    def test_images_of_one_group_are_answered_as_the_run_predicts_them(self, run: Run) -> None:
        ensemble = load(run.root)
        ensemble.definition = replace(ensemble.definition, grouping=Grouping(("age",), "geometric"))
        voter = ModelDeployment.__new__(ModelDeployment)
        voter.ensemble = ensemble
        read = [pixels for _, pixels in map(ensemble_reader(ensemble), PHOTOS[:5])]
        results = voter.predict_images(read)
        said = together(ensemble.definition, results)
        table = ensemble.predict(PHOTOS[:5], groups=["p"] * 5)
        assert len({one.probabilities["age"]["old"] for one in said}) == 1
        for one, alone, row in zip(said, results, table.to_dict("records"), strict=True):
            assert one.labels == {task: row[task] for task in TASKS}
            assert one.joint.number == row[JOINT]
            assert one.agreement == alone.prediction.agreement
            assert one.members == alone.prediction.members
            for task, classes in one.probabilities.items():
                assert classes == pytest.approx({name: row[f"{task}:{name}"] for name in TASKS[task]["classes"]}, abs=1e-5)
        assert [one.probabilities["age"] for one in said] != [one.prediction.probabilities["age"] for one in results]

    def test_the_vote_on_an_image_is_passed_on_only_where_it_is_needed(self, run: Run) -> None:
        voter = ModelDeployment.__new__(ModelDeployment)
        voter.ensemble = load(run.root)
        assert [result.joint for result in voter.predict_images([None, None])] == [None, None]


class TestVoter:
    def test_batches_that_wait_for_the_models_are_joined_as_far_as_there_is_room(self) -> None:
        voter = ModelDeployment.__new__(ModelDeployment)
        sizes = []

        def told(images: list[Any]) -> list[Any]:
            sizes.append(len(images))
            if "bad" in images:
                raise ValueError("bad")
            return [f"told {image}" for image in images]

        async def all_of(batches: list[list[Any]]) -> list[Any]:
            voter.batch_size, voter.free, voter.closed = 4, asyncio.Lock(), deque()
            voter.worker, voter.predict_images = ThreadPoolExecutor(1), told  # type: ignore[method-assign, assignment]
            asked = (ModelDeployment.predict.__wrapped__(voter, batch) for batch in batches)
            return await asyncio.gather(*asked, return_exceptions=True)

        answers = asyncio.run(all_of([[1], [2, 3], [4, 5], [6], [7], ["bad", 8, 9], [10], [11]]))
        assert sizes == [1, 4, 2, 4, 1]
        assert answers[:5] == [["told 1"], ["told 2", "told 3"], ["told 4", "told 5"], ["told 6"], ["told 7"]]
        assert [type(answer) for answer in answers[5:7]] == [ValueError, ValueError]
        assert answers[7] == ["told 11"]


class TestPlan:
    def test_one_replica_a_gpu_or_on_cpus_as_many_as_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("raymask.serving.deployment.usable_memory", lambda: 32 * 2**30)
        of_cpus, of_gpus = Cluster((Node(4, 0), Node(8, 0)), None, True), Cluster((Node(8, 2), Node(8, 1)), None, True)
        assert plan_replicas(of_cpus, None, 2**20) == (4, {"num_cpus": 3})
        assert plan_replicas(of_cpus, None, 7 * 2**30) == (2, {"num_cpus": 4})
        assert plan_replicas(of_cpus, None, 99 * 2**30) == (1, {"num_cpus": 4})
        assert plan_replicas(Cluster((Node(2, 0),), None, True), None, 2**20) == (2, {"num_cpus": 1})
        assert plan_replicas(of_cpus, 6, 2**20) == (6, {"num_cpus": 2})
        assert plan_replicas(of_gpus, None, 2**20) == (3, {"num_cpus": 1, "num_gpus": 1})
        assert plan_replicas(of_gpus, 1, 2**20) == (1, {"num_cpus": 1, "num_gpus": 1})

    @pytest.mark.parametrize(("gpus", "said"), [(0, "4 CPUs"), (2, "2 GPUs")])
    def test_more_replicas_than_processors_are_refused(self, gpus: int, said: str) -> None:
        with pytest.raises(InputError, match=said):
            plan_replicas(Cluster((Node(4, gpus),), None, True), 5, 2**20)

    def test_a_cluster_without_a_whole_cpu_is_refused(self) -> None:
        with pytest.raises(InputError, match="Ray has 0 CPUs"):
            plan_replicas(Cluster((Node(0.5, 0),), None, True), None, 2**20)

    def test_a_port_that_is_taken_is_refused(self, run: Run) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            settings = Settings(port=taken.getsockname()[1])
            definition, cluster = read_definition(run.root), Cluster((Node(2, 0),), None, True)
            with pytest.raises(InputError, match=f"port {settings.port} of"), serving(run.root, definition, settings, cluster):
                pass

    def test_addresses(self) -> None:
        assert Settings().url == "http://127.0.0.1:8000"
        assert replace(Settings(), host="::1", port=1).url == "http://[::1]:1"
