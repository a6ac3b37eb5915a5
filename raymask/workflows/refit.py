"""`raymask refit`: after the folds, a member's model that is trained on the people of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raymask.core.console import Display
from raymask.runs.directory import WHOLE, ReplicaId
from raymask.workflows.compare_models import compare_models, uncompared
from raymask.workflows.fold_models import train_fold_models
from raymask.workflows.images import prepare_images
from raymask.workflows.setup import PreparedRun, check_trained, finished_run, named_members
from raymask.workflows.soup import voted


def refit(folder: Path, members: Sequence[str] = (), display: Display | None = None, rule: str | None = None) -> list[ReplicaId]:
    """Trains members of a finished run on the people of all its folds; their models lie in `members/MEMBER/all`.

    Args:
        folder: directory of the run.
        members: names of members; none for all of them.
        display: what shows progress.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Returns:
        One model a member, in the order of the run's members.

    Raises:
        InputError: the directory holds no run whose folds are trained, or the run has no such member.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display = display or Display()
    with finished_run(folder, rule, display) as prepared:
        refitted = refit_members(prepared, members)
        if reason := uncompared(prepared):
            display.line("refit", reason)
        else:
            compare_models(prepared.context, *voted(prepared))
    models = [[str(model), str(prepared.run.weights(model))] for model in refitted]
    display.table("Models of all people", ["", ""], models)
    return refitted


def refit_members(prepared: PreparedRun, names: Sequence[str]) -> list[ReplicaId]:
    """Trains members on every image of the manifest, by the recipes that their fold models were trained by.

    Nothing validates such a model; what is known of it are the scores of its folds, so these must be there. A finished one is
    left as it is.

    Args:
        prepared: the run.
        names: the members; none for all of them.

    Raises:
        InputError: the run has no such member, or its folds are not trained yet.
    """
    members = named_members(prepared, names)
    check_trained(prepared.run, members)
    train_fold_models(prepared, "refit", members, [WHOLE], prepare_images(prepared))
    return [ReplicaId(member.name, WHOLE) for member in members]
