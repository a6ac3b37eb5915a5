"""After the folds: a member's model that is trained on the people of all of them."""

from __future__ import annotations

from collections.abc import Sequence

from raymask.config import Member
from raymask.data.folds import replica_folds
from raymask.display import Display
from raymask.errors import InputError, one_of, shortened
from raymask.opening import Opened
from raymask.run_tables import read_folds
from raymask.session import RaySession
from raymask.stages import prepare_images, train_replicas
from raymask.store import WHOLE, ReplicaId, Run


def refit_members(opened: Opened, names: Sequence[str], session: RaySession, display: Display) -> list[ReplicaId]:
    """Trains members on every image of the manifest, by the recipes that their folds' replicas were trained by.

    Nothing validates such a model; what is known of it are the scores of its folds, so these must be there. A finished one is
    left as it is.

    Args:
        opened: the run.
        names: the members; none for all of them.
        session: Ray, which is only started when there is something to train.
        display: what is said of it.

    Returns:
        One replica a member, in the order of the run's members.

    Raises:
        InputError: the run has no such member, or its folds are not trained yet.
    """
    members = named_members(opened, names)
    check_trained(opened.run, members)
    caches, manifest = prepare_images(opened, session, display)
    train_replicas(opened, "refit", members, [WHOLE], caches, manifest["image_id"], session, display)
    return [ReplicaId(member.name, WHOLE) for member in members]


def named_members(opened: Opened, names: Sequence[str]) -> list[Member]:
    """The run's members of these names, all of them without any.

    Raises:
        InputError: there is no such member.
    """
    known = [member.name for member in opened.members]
    for name in names:
        if name not in known:
            raise InputError(f"--member: the run has no member '{name}'; it may be {one_of(known, name)}.")
    return [member for member in opened.members if not names or member.name in names]


def check_trained(run: Run, members: Sequence[Member]) -> None:
    """Refuses a run whose folds these members are not trained for.

    Raises:
        InputError: names what is not there.
    """
    folds = replica_folds(read_folds(run)) if run.manifest.exists() else [0]
    replicas = [ReplicaId(member.name, fold) for member in members for fold in folds]
    missing = [str(replica) for replica in replicas if not run.finished(replica)]
    if missing:
        raise InputError(
            f"'{run.root}' is not trained to its end (there is no {shortened(missing, 3)}); finish it first by "
            f"`raymask train --recipe {run.config}`."
        )
