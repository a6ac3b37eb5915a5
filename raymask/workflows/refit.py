"""After the folds: a member's model that is trained on the people of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from raymask.cluster.session import RaySession
from raymask.core.console import Display
from raymask.core.paths import absolute, check_writable
from raymask.runs.directory import WHOLE, ReplicaId
from raymask.workflows.context import ray_errors
from raymask.workflows.setup import PreparedRun, check_trained, config_where_it_lies, named_members
from raymask.workflows.stages import prepare_images, train_replicas


def refit_members(prepared: PreparedRun, names: Sequence[str], session: RaySession, display: Display) -> list[ReplicaId]:
    """Trains members on every image of the manifest, by the recipes that their folds' replicas were trained by.

    Nothing validates such a model; what is known of it are the scores of its folds, so these must be there. A finished one is
    left as it is.

    Args:
        prepared: the run.
        names: the members; none for all of them.
        session: Ray, which is only started when there is something to train.
        display: what is said of it.

    Returns:
        One replica a member, in the order of the run's members.

    Raises:
        InputError: the run has no such member, or its folds are not trained yet.
    """
    members = named_members(prepared, names)
    check_trained(prepared.run, members)
    caches, manifest = prepare_images(prepared, session, display)
    train_replicas(prepared, "refit", members, [WHOLE], caches, manifest["image_id"], session, display)
    return [ReplicaId(member.name, WHOLE) for member in members]


def refit(folder: Path, members: Sequence[str] = (), display: Display | None = None, rule: str | None = None) -> list[ReplicaId]:
    """Trains members of a finished run on the people of all its folds; their models lie in `members/MEMBER/all`.

    Args:
        folder: directory of the run.
        members: names of members; none for all of them.
        display: what is said of it.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Raises:
        InputError: the directory holds no run whose folds are trained, or the run has no such member.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display = display or Display()
    root = absolute(folder)
    config = config_where_it_lies(root, rule)
    check_writable(root, "run, such as a copy of it")
    with ray_errors(root), ExitStack() as stack:
        session = RaySession(stack, config.compute, display)
        from raymask.workflows import compare_models, soup
        from raymask.workflows.setup import open_run

        prepared = open_run(config, display)
        refitted = refit_members(prepared, members, session, display)
        if reason := compare_models.uncompared(prepared):
            display.line("refit", reason)
        else:
            compare_models.compare_models(*soup.voted(prepared, session, display), session, display)
    models = [[str(replica), str(prepared.run.weights(replica))] for replica in refitted]
    display.table("Models of all people", ["", ""], models)
    return refitted
