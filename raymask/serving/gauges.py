"""What an operator wants to know of a server, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from raymask.serving.admission import Gate

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts of this process."""

    def __init__(self, gate: Gate) -> None:
        self.registry = registry = CollectorRegistry()
        description = "Requests to /predict by the status of their answers"
        self.requests = Counter("raymask_requests", description, ["status"], registry=registry)
        description = "Seconds from a request's arrival to its answer"
        self.seconds = Histogram("raymask_request_seconds", description, buckets=SECONDS, registry=registry)
        self.images = Counter("raymask_images", "Images predicted", registry=registry)
        description = "Images that the models predicted at once"
        self.batches = Histogram("raymask_batch_images", description, buckets=IMAGES, registry=registry)
        now = {
            "raymask_waiting_requests": ("Requests to /predict that have come in and have no answer yet", lambda: gate.waiting),
            "raymask_uploads": ("Requests to /predict whose bodies are still coming in", lambda: gate.uploads),
            "raymask_draining": ("1 while the server ends and answers what is under way", lambda: gate.draining),
        }
        for name, (meaning, value) in now.items():
            Gauge(name, meaning, registry=registry).set_function(value)

    def count(self, status: int, seconds: float, batches: Sequence[int] = ()) -> None:
        """Takes note of an answer and of the sizes of its images' batches, see `raymask.serving.app.PredictionResult`."""
        self.requests.labels(str(status)).inc()
        self.seconds.observe(seconds)
        self.images.inc(len(batches))
        for size in filter(None, batches):
            self.batches.observe(size)

    def __str__(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self.registry).decode()
