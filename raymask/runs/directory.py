"""The one owner of a run directory's paths.

A file is written under another name and renamed when complete, so that its existence means that it is whole; see `run_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raymask.config.schema import RunConfig
from raymask.core.errors import InputError
from raymask.core.paths import absolute
from raymask.io.checked import damaged, within
from raymask.runs.folders import ModelFiles
from raymask.runs.schemas import Ensemble, WrittenMember, read_run_file
from raymask.runs.search_schemas import Stopped

WHOLE, SOUP, GREEDY_SOUP = -2, -3, -4
"""What stands for the fold of a member's model that is trained on all people, or averaged from its fold models."""

ANY_FOLD = -1
"""What stands for the fold of a target that every fold model learns from."""

ERROR_LOG = "error.log"
"""Whole text of an error that ended a command, in its folder."""

PART_NAMES = {WHOLE: "all", SOUP: "soup", GREEDY_SOUP: "greedy-soup"}


@dataclass(frozen=True)
class ReplicaId:
    """A member trained without fold `fold`; or one of its models that no fold is left out of, see `PART_NAMES`."""

    member: str
    fold: int

    @property
    def part(self) -> str:
        """`fold-K`, or what stands for it."""
        return PART_NAMES.get(self.fold, f"fold-{self.fold}")

    def __str__(self) -> str:
        return f"{self.member}/{self.part}"


def cache_root(config: RunConfig) -> Path:
    """Folder of everything that runs share."""
    return (absolute(config.cache) if config.cache else config.runs / ".cache").resolve()


def cache_of(config: RunConfig, kind: str) -> Path:
    """Folder of prepared images or features: one that runs share, but a debug run's own.

    So a debug run prepares all anew, by which its time is known, and leaves nothing behind.

    Args:
        config: of a run, resolved.
        kind: `prepared` or `features`.
    """
    return (config.runs / config.name / "cache" if config.debug else cache_root(config)) / kind


def demo_folder(config: RunConfig) -> Path:
    """Where the embedded demo data set of a run is drawn."""
    return cache_root(config) / f"demo-{config.data.demo_people}-{config.data.demo_test_people}"


@dataclass(frozen=True)
class Run:
    """The paths of one run directory."""

    root: Path

    def _at(self, *parts: str) -> Path:
        return within(self.root, *parts)

    @property
    def name(self) -> str:
        """Name of the run, that of its directory."""
        return self.root.name

    @property
    def config(self) -> Path:
        """Resolved config, from which the same run can be started again."""
        return self._at("config.yaml")

    @property
    def manifest(self) -> Path:
        """One row a training image: image_id, path, group, labels, fold, and where it lies in the cache."""
        return self._at("manifest.parquet")

    @property
    def source(self) -> Path:
        """The training images that the run began with: image_id, group, labels, and the digest of each file's content."""
        return self._at("source.parquet")

    @property
    def backbones(self) -> Path:
        """Digests of the weights that members start from, by the member's name."""
        return self._at("backbones.json")

    @property
    def test_source(self) -> Path:
        """Fingerprint of the test images that were predicted."""
        return self._at("test", "source.json")

    @property
    def test_predictions(self) -> Path:
        """Every fold model's probabilities for each test image."""
        return self._at("test", "replicas.parquet")

    @property
    def reserve(self) -> Path:
        """Images of people that are held out from everything, like the manifest but without folds."""
        return self._at("reserve", "manifest.parquet")

    @property
    def reserve_predictions(self) -> Path:
        """Every fold model's probabilities for each reserved image."""
        return self._at("reserve", "replicas.parquet")

    @property
    def reserve_singles(self) -> Path:
        """Probabilities for each reserved image of the models that no fold is left out of."""
        return self._at("reserve", "singles.parquet")

    @property
    def targets(self) -> Path:
        """What a teacher says of images: soft targets of the loss."""
        return self._at("targets.parquet")

    @property
    def teacher(self) -> Path:
        """Which run the targets are of, and the fingerprint of what it said then."""
        return self._at("teacher.json")

    @property
    def gain(self) -> Path:
        """How a run that learned from another compares to it."""
        return self._at("gain.json")

    @property
    def singles(self) -> Path:
        """Scores and speed of models that stand for the whole ensemble, beside it."""
        return self._at("singles.json")

    @property
    def rejected(self) -> Path:
        """What was set aside and why."""
        return self._at("rejected.csv")

    @property
    def ensemble(self) -> Path:
        """Rule of the vote and the OOF scores."""
        return self._at("ensemble.json")

    @property
    def oof_ensemble(self) -> Path:
        """Out-of-fold prediction of the whole ensemble."""
        return self._at("oof", "_ensemble.parquet")

    @property
    def predictions(self) -> Path:
        """Joint and per-task probabilities of the test images."""
        return self._at("predictions.parquet")

    @property
    def submission(self) -> Path:
        """The test file with its answers."""
        return self._at("submission.csv")

    @property
    def report(self) -> Path:
        """The run as one page."""
        return self._at("report.html")

    @property
    def tune(self) -> Path:
        """Ray Tune's own records of the trials."""
        return self._at("tune")

    @property
    def timings(self) -> Path:
        """Wall time in seconds of each stage that really ran."""
        return self._at("timings.json")

    def of_voter(self, run: Run) -> Run:
        """Where predictions are kept that another run, whose members vote in this one, lacks."""
        return Run(self._at("voters", run.name))

    def oof(self, member: str) -> Path:
        """Out-of-fold predictions of a member."""
        return self._at("oof", f"{member}.parquet")

    @property
    def reserve_source(self) -> Path:
        """Fingerprint of the reserved images that were predicted by the fold models."""
        return self._at("reserve", "source.json")

    @property
    def reserve_singles_source(self) -> Path:
        """The same of the models that no fold is left out of."""
        return self._at("reserve", "singles.json")

    @property
    def members(self) -> Path:
        """Folder of all models."""
        return self._at("members")

    def folder_of(self, name: str) -> Path:
        """Folder of a member's models, or of one model by its name `MEMBER/PART`."""
        return self._at("members", *name.split("/"))

    def fold_models(self, member: str) -> list[ReplicaId]:
        """The fold models of a member that have a folder, by fold."""
        parts = (path.name.removeprefix("fold-") for path in self.folder_of(member).glob("fold-*"))
        return [ReplicaId(member, fold) for fold in sorted(int(part) for part in parts if part.isdecimal())]

    def replica(self, replica: ReplicaId) -> Path:
        """Folder of a model."""
        return self.folder_of(str(replica))

    def files_of(self, replica: ReplicaId) -> ModelFiles:
        """The files of a model."""
        return ModelFiles(self.replica(replica))

    def weights(self, replica: ReplicaId) -> Path:
        """A model's weights."""
        return self.files_of(replica).weights

    def meta(self, replica: ReplicaId) -> Path:
        """All that is needed to rebuild and feed the model; written last, so that it marks a finished model."""
        return self.files_of(replica).meta

    def history(self, replica: ReplicaId) -> Path:
        """Metrics of each epoch."""
        return self.files_of(replica).history

    def replica_oof(self, replica: ReplicaId) -> Path:
        """A fold model's predictions of its own fold."""
        return self.files_of(replica).oof

    def replica_reserve(self, replica: ReplicaId) -> Path:
        """Cross-fitted predictions of the reserved images by a greedy soup."""
        return self.files_of(replica).reserve

    def checkpoint(self, replica: ReplicaId) -> Path:
        """State after the last finished epoch of a model that is still being trained."""
        return self.files_of(replica).checkpoint

    def finished(self, replica: ReplicaId) -> bool:
        """Whether a fold model is trained and has predicted its fold."""
        return self.meta(replica).exists()

    def stops_after(self, replica: ReplicaId) -> int | None:
        """Finished epochs after which a fold model ends, whose trial of a search was ended early."""
        file = self.files_of(replica).stopped
        return read_run_file(file, Stopped).epoch if file.exists() else None

    def stopped(self, replica: ReplicaId) -> bool:
        """Whether a fold model ended early, and has predicted its fold."""
        return self.files_of(replica).stopped.exists() and self.replica_oof(replica).exists()

    def ended(self, replica: ReplicaId) -> bool:
        """Whether a fold model needs no further training."""
        return self.finished(replica) or self.stopped(replica)


def read_ensemble(run: Run, *needed: str) -> Ensemble:
    """What `ensemble.json` holds, these keys among it.

    Raises:
        DamagedFileError: it cannot be read, or lacks one of them.
    """
    ensemble = read_run_file(run.ensemble, Ensemble)
    if lacking := [key for key in needed if key not in ensemble.model_fields_set or getattr(ensemble, key) is None]:
        raise damaged(run.ensemble, f"it has no `{lacking[0]}`")
    for name, written in ensemble.members.items():
        _check_member(run, name, written)
    return ensemble


def _check_member(run: Run, name: str, written: WrittenMember) -> None:
    """Refuses names that lead elsewhere when they become folders: `RUN/MEMBER` or `MEMBER` in the vote, `MEMBER` in its run."""
    if not written.member:
        raise damaged(run.ensemble, f"it does not say which member '{name}' is")
    try:
        for each in (name, written.member):
            if each.count("/") > 1:
                raise InputError(f"'{each}' is neither MEMBER nor RUN/MEMBER.")
            within(run.root, *each.split("/"))
        if written.run is not None and (not Path(written.run).is_absolute() or "\0" in written.run):
            raise InputError(f"the run of '{name}' is no absolute path.")
    except InputError as error:
        raise damaged(run.ensemble, str(error).rstrip(".")) from None
