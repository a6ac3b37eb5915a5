"""The paths of folders beside a run's: a model's, an export's, and that of predictions of any number of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raymask.io.checked import within


@dataclass(frozen=True)
class ModelFiles:
    """A trained model's folder, in a run or in an export."""

    root: Path

    @property
    def meta(self) -> Path:
        """All that is needed to rebuild and feed the model; written last, so that it marks a finished model."""
        return within(self.root, "meta.json")

    @property
    def weights(self) -> Path:
        """Its weights."""
        return within(self.root, "model.safetensors")

    @property
    def history(self) -> Path:
        """Metrics of each epoch."""
        return within(self.root, "history.csv")

    @property
    def oof(self) -> Path:
        """Predictions of its own fold."""
        return within(self.root, "oof.parquet")

    @property
    def reserve(self) -> Path:
        """Cross-fitted predictions of the reserved images by a greedy soup."""
        return within(self.root, "reserve.parquet")

    @property
    def checkpoint(self) -> Path:
        """State after the last finished epoch while it is being trained."""
        return within(self.root, "checkpoint.pt")

    @property
    def failed_batch(self) -> Path:
        """The images of the batch at which its training was given up, since its numbers ceased to be finite."""
        return within(self.root, "failed-batch.csv")

    @property
    def stopped(self) -> Path:
        """That its trial of a search was ended early, so that it is trained no further."""
        return within(self.root, "stopped.json")


@dataclass(frozen=True)
class ExportFolder:
    """An export's own files, beside the vote and the models, which lie there as in a run."""

    root: Path

    @property
    def preprocessing(self) -> Path:
        """How to feed the graphs, and what they give."""
        return self.root / "preprocessing.json"

    @property
    def check(self) -> Path:
        """Greatest difference of a probability from raymask's by file."""
        return self.root / "check.json"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.root / "README.md"


@dataclass(frozen=True)
class BakeOffFiles:
    """The results of a bake-off, in the directory of the run that its heads are trained in."""

    root: Path

    @property
    def comparison(self) -> Path:
        """Backbones by what heads on their features score; it marks the run as a bake-off."""
        return within(self.root, "bakeoff.json")

    @property
    def table(self) -> Path:
        """The same for other programs."""
        return within(self.root, "bakeoff.csv")

    @property
    def plot(self) -> Path:
        """The same as a picture."""
        return within(self.root, "bakeoff.png")


@dataclass(frozen=True)
class SearchFiles:
    """The results of a search, in the directory of the run that its trials are trained in."""

    root: Path

    @property
    def search(self) -> Path:
        """The trials, and what is known of them; it marks the run as a search."""
        return within(self.root, "search.json")

    @property
    def table(self) -> Path:
        """The trials for other programs."""
        return within(self.root, "trials.csv")

    @property
    def best(self) -> Path:
        """The recipe of the best trial."""
        return within(self.root, "best.yaml")

    @property
    def page(self) -> Path:
        """All of it for people."""
        return within(self.root, "search.html")


@dataclass(frozen=True)
class PredictionFolder:
    """Predictions of any number of images, in shards."""

    root: Path
    kept: str = "predictions"
    """Name of the folder of the shards."""

    @property
    def images(self) -> Path:
        """image_id and path of every image, a row group a chunk: workers read their rows from here."""
        return self.root / "images.parquet"

    @property
    def job(self) -> Path:
        """Fingerprint of the images and the vote; written last of what a job needs to begin."""
        return self.root / "job.json"

    @property
    def predictions(self) -> Path:
        """Folder of the shards."""
        return self.root / self.kept

    def shard(self, number: int) -> Path:
        """Predictions of one shard; it exists when it is whole."""
        return self.predictions / f"part-{number:05d}.parquet"

    def shards(self) -> list[Path]:
        """The shards that are written, in order."""
        return sorted(self.predictions.glob("part-*.parquet"))

    def versions(self, number: int) -> Path:
        """What the files of one shard held when they were predicted; written before it."""
        return self.root / "versions" / f"part-{number:05d}.parquet"

    @property
    def problems(self) -> Path:
        """The images that cannot be read, and why."""
        return self.root / "problems.csv"

    @property
    def submission(self) -> Path:
        """The table of images with its answers."""
        return self.root / "submission.csv"
