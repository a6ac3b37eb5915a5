"""A stress of the real `raymask serve` on this machine: mixed requests, killed models, and SIGTERM under load.

    python benchmarks/stress_serve.py --requests 4000

A process of `raymask serve` is asked over loopback by `--at-once` clients, which send single photos, several at once, JSON, and
what is no image. It must answer each as it should; its memory must stay flat from the first quarter on; models killed by SIGKILL
must come back; and after SIGTERM every request that was under way must be answered. It exits with status 1 if one of these fails.
At most `--seconds` are spent on requests.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.common import WORK, show, write_results
from benchmarks.serve import write_run
from raymask.config.recipe import Recipe
from raymask.runs.directory import Run

GROWTH = 1.15
"""What memory may be after all requests, of what it was after the first quarter."""
HEALED_S = 120.0


def photo(seed: int, kind: str = "JPEG") -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((384, 512)).save(file, kind)
    return file.getvalue()


PHOTOS = [photo(seed) for seed in range(20)]
KINDS: dict[str, tuple[int, Callable[[int], dict[str, Any]]]] = {
    "one photo": (200, lambda place: {"files": {"image": PHOTOS[place % 20]}}),
    "another photo": (200, lambda place: {"files": {"image": PHOTOS[(3 * place) % 20]}}),
    "eight photos": (200, lambda place: {"files": [("image", (f"{k}.jpg", PHOTOS[(place + k) % 20])) for k in range(8)]}),
    "JSON": (200, lambda place: {"json": {"image": base64.b64encode(PHOTOS[place % 20]).decode()}}),
    "half a photo": (422, lambda place: {"files": {"image": PHOTOS[place % 20][:4000]}}),
    "no photo": (400, lambda place: {"json": {"image": "%"}}),
    "too large": (413, lambda place: {"files": {"image": bytes(3_000_000)}}),
}


class Server:
    """A process of `raymask serve`, and all that it starts."""

    def __init__(self, run: Run) -> None:
        with socket.socket() as tried:
            tried.bind(("127.0.0.1", 0))
            self.port = tried.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "raymask.cli", "serve", str(run.root), "--port", str(self.port), "--max-mb", "2"]
        self.process = subprocess.Popen(command, start_new_session=True)

    def wait_until_ready(self, seconds: float) -> float:
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            try:
                if httpx.get(f"{self.url}/health", timeout=10).status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise SystemExit("the server is not ready")

    def parts(self) -> dict[str, list[psutil.Process]]:
        """The server's process and those of the models."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        models = [child for child in children if "ServeReplica" in "".join(child.cmdline())]
        return {"server": [psutil.Process(self.process.pid)], "models": models}

    def memory(self) -> dict[str, float]:
        """Resident MB by part."""
        return {part: sum(one.memory_info().rss for one in found) / 2**20 for part, found in self.parts().items()}


def ask(server: Server, requests: int, at_once: int, until: float) -> Counter[tuple[str, int, int]]:
    """How many answers of each kind and status there were, beside the status that was due."""
    told: Counter[tuple[str, int, int]] = Counter()
    places, lock = count(), threading.Lock()

    def client() -> None:
        with httpx.Client(base_url=server.url, timeout=120) as session:
            while (place := next(places)) < requests and time.monotonic() < until:
                kind = list(KINDS)[place % len(KINDS)]
                due, body = KINDS[kind]
                try:
                    status = session.post("/predict", **body(place)).status_code
                except httpx.TransportError:  # a body that is too large is not read to its end
                    status = 413 if due == 413 else 0
                with lock:
                    told[kind, due, status] += 1

    with ThreadPoolExecutor(at_once) as clients:
        for done in [clients.submit(client) for _ in range(at_once)]:
            done.result()
    return told


def kill_models(server: Server) -> dict[str, Any]:
    """SIGKILL to one of the models' processes while requests come: what they were answered, and when all was well again."""
    statuses: Counter[int] = Counter()
    victim = server.parts()["models"][0].pid
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    well = 0
    while well < 50 and time.monotonic() < began + HEALED_S:
        status = httpx.post(f"{server.url}/predict", files={"image": PHOTOS[0]}, timeout=60).status_code
        statuses[status] += 1
        replaced = victim not in [one.pid for one in server.parts()["models"]] and len(server.parts()["models"]) > 0
        well = well + 1 if status == 200 and replaced else 0
        time.sleep(0.02)
    return {"statuses": dict(statuses), "seconds": time.monotonic() - began, "healed": well >= 50}


def end_under_load(server: Server, at_once: int) -> dict[str, Any]:
    """SIGTERM while every client waits for an answer: how many of these came, and how those were answered that asked later."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    signalled, stop = threading.Event(), threading.Event()

    def client(place: int) -> None:
        while not stop.is_set():
            early = not signalled.is_set()
            try:
                status = str(httpx.post(f"{server.url}/predict", **KINDS["eight photos"][1](place), timeout=120).status_code)
            except httpx.ConnectError:
                status = "not accepted"
            except httpx.TransportError as error:
                status = f"lost ({type(error).__name__})"
            (before if early else after)[status] += 1
            if status == "not accepted":
                return
            time.sleep(0 if early else 0.1)

    with ThreadPoolExecutor(at_once) as clients:
        asked = [clients.submit(client, place) for place in range(at_once)]
        time.sleep(3)
        signalled.set()
        time.sleep(0.5)  # so that a request that counts as early has come in before the signal
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        status = server.process.wait(120)
        seconds = time.monotonic() - began
        stop.set()
        for done in asked:
            done.result()
    return {"before": dict(before), "after": dict(after), "exit": status, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=900)
    given = parser.parse_args()
    recipe = Recipe.model_validate({"backbone": "test_resnet", "pretrained": False, "image_size": 64, "amp": "off"})
    server = Server(write_run(WORK / "stress-run", recipe))
    try:
        server.wait_until_ready(180)
        until, began = time.monotonic() + given.seconds, time.monotonic()
        quarter = given.requests // 4
        told = ask(server, quarter, given.at_once, until)
        early = server.memory()
        told += ask(server, given.requests - quarter, given.at_once, until)
        late, seconds = server.memory(), time.monotonic() - began
        killed = kill_models(server)
        ended = end_under_load(server, given.at_once)
    finally:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
    wrong = {key: number for key, number in told.items() if key[1] != key[2]}
    lost = {status: number for status, number in ended["before"].items() if status != "200"}
    flat = all(late[part] <= GROWTH * early[part] for part in early)
    rows = [(kind, due, status, number) for (kind, due, status), number in sorted(told.items())]
    show(f"{told.total()} requests in {seconds:.0f} s, {given.at_once} at once", ("request", "due", "status", "answers"), rows)
    show("Memory, MB", ("process", "after a quarter", "after all"), [(part, early[part], late[part]) for part in early])
    show("A model's process killed", ("answers", "seconds until well"), [(str(killed["statuses"]), killed["seconds"])])
    columns = ("asked before", "asked after", "seconds", "exit status")
    show("SIGTERM under load", columns, [(str(ended["before"]), str(ended["after"]), ended["seconds"], ended["exit"])])
    figures = {"answers": rows, "seconds": seconds, "memory": [early, late], "killed": killed, "ended": ended}
    write_results("stress_serve", {"given": vars(given), **figures})
    checks = {"answers": not wrong, "memory": flat, "lost": not lost, "healing": killed["healed"]}
    failed = [name for name, good in checks.items() if not good]
    if failed or ended["exit"]:
        raise SystemExit(f"failed: {', '.join(failed) or 'exit status'}")


if __name__ == "__main__":
    main()
