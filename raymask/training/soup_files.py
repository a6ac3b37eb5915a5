"""A task's work on a member's soups: fold models and images are read, soups are written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from raymask.core.columns import by_column, label_column, true_labels
from raymask.core.tasks import JOINT, UNLABELLED, LabelSpace, heads_of
from raymask.core.types import ByHead
from raymask.data.specs import input_spec
from raymask.data.stream import prepared_images
from raymask.io.atomic import write_table
from raymask.io.hashing import file_digest
from raymask.models.precision import prepare_process
from raymask.runs.directory import GREEDY_SOUP, SOUP, ReplicaId
from raymask.runs.models import read_model
from raymask.runs.tables import read_manifest, read_reserve
from raymask.training.soup import Images, Ingredient, Reserved, Soup, SoupSpec, soup_of_member
from raymask.training.soup_jobs import SoupJob, SoupResult
from raymask.training.trial import write_model


def make_soups(job: SoupJob, threads: int) -> SoupResult:
    """Makes and writes both soups of a member.

    Raises:
        InputError: the reserved people are too few, or the fold models of different architectures.
    """
    device = prepare_process(threads)
    run, member = job.run, job.member
    models = [read_model(run.replica(ReplicaId(member.name, fold))) for fold in job.folds]
    ingredients = [Ingredient(model.folder.name, model.weights, model.scores.get("f1", 0.0), model.sha256) for model in models]
    labelled = read_manifest(run, job.space)[label_column(JOINT)] != UNLABELLED
    seen = input_spec(member.recipe)
    training = Images(prepared_images(job.cache, run.manifest).seen_by(seen), np.flatnonzero(labelled))
    held_out = read_reserve(run)
    reserved = Reserved(
        Images(prepared_images(job.cache, run.reserve).seen_by(seen), np.arange(len(held_out))),
        true_labels(held_out, job.space),
        held_out["group"].to_numpy(),
    )
    spec = SoupSpec(member.recipe, heads_of(member.task, job.space), job.space, job.views, job.seed, models[0].scales)
    soup, greedy = soup_of_member(spec, ingredients, training, reserved, device)
    replica = ReplicaId(member.name, GREEDY_SOUP)
    write_table(run.replica_reserve(replica), reserve_table(held_out["image_id"], replica, greedy.predictions, job.space))
    soups = {SOUP: soup, GREEDY_SOUP: greedy}
    _write_soups(job, soups)
    return SoupResult(member.name, {number: each.scores for number, each in soups.items()}, greedy.ingredients)


def _write_soups(job: SoupJob, soups: Mapping[int, Soup]) -> None:
    replicas = [ReplicaId(job.member.name, fold) for fold in job.folds]
    made_of = {replica.part: file_digest(job.run.weights(replica)) for replica in replicas}
    for number, soup in soups.items():
        more = {"ingredients": list(soup.ingredients), "views": job.views.to_json(), "reserve": soup.scores, "made_of": made_of}
        write_model(job.run, job.member, number, soup.model, job.space, **more)


def reserve_table(image_ids: pd.Series, replica: ReplicaId, probabilities: ByHead, space: LabelSpace) -> pd.DataFrame:
    """One model's predictions as `raymask.inference.actors.predict` gives those of many.

    Args:
        image_ids: (N,) ids.
        replica: the model.
        probabilities: (N, C) probabilities by head.
        space: the label space.
    """
    columns = by_column({head: head_probs.astype(np.float32) for head, head_probs in probabilities.items()}, space, str(replica))
    table = pd.DataFrame({"image_id": image_ids.to_numpy(), "problem": "", **columns})
    return table.sort_values("image_id", kind="stable").reset_index(drop=True)
