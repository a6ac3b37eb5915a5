"""`raymask soup`: one model from a member's folds (model soups, Wortsman et al. 2022), and how it compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raymask.cluster.connection import check_shared
from raymask.cluster.resources import plan_slots
from raymask.config.members import Member
from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.core.tasks import JOINT
from raymask.data.folds import replica_folds
from raymask.data.specs import input_spec
from raymask.inference.voting_runs import VotingRun, voting_runs
from raymask.runs.directory import GREEDY_SOUP, SOUP, ReplicaId, read_ensemble
from raymask.runs.models import soups_are_made
from raymask.runs.timings import timed
from raymask.training.soup_jobs import SoupJob, SoupResult
from raymask.training.soup_tasks import make
from raymask.transforms.tta import ViewPlan
from raymask.voting.vote import Vote
from raymask.workflows.compare_models import compare_models
from raymask.workflows.images import prepare_images
from raymask.workflows.setup import PreparedRun, check_trained, finished_run, named_members
from raymask.workflows.vote import decide_vote, score_reserve


def soup(folder: Path, members: Sequence[str] = (), display: Display | None = None, rule: str | None = None) -> list[ReplicaId]:
    """Averages the fold models of a finished run to one a member; they lie in `members/MEMBER/soup` and `greedy-soup`.

    Args:
        folder: directory of the run, from which people are held out (`folds.reserve`).
        members: names of members; none for all of them.
        display: what shows progress.
        rule: import path of the rule of your own that the run votes by, if it does; a run's files are not believed there.

    Returns:
        Two soups a member.

    Raises:
        InputError: the directory holds no run whose folds are trained, no one is held out, or the run has no such member.
        RunError: a part failed for good; started again, it goes on with what is unfinished.
    """
    display = display or Display()
    with finished_run(folder, rule, display) as prepared:
        chosen = souped_members(prepared, members)
        voting_run, vote = voted(prepared)
        soups = make_soups(prepared, chosen, vote.views)
        compare_models(prepared.context, voting_run, vote)
    models = [[str(model), str(prepared.run.weights(model))] for model in soups]
    display.table("Soups", ["", ""], models)
    return soups


def souped_members(prepared: PreparedRun, names: Sequence[str]) -> list[Member]:
    """The members of these names, all of them without any, of a run that soups can be made of.

    Raises:
        InputError: the run has no such member, its folds are not trained yet, no one is held out from it, or a member's models
            normalise by different images.
    """
    members = named_members(prepared, names)
    for member in members:
        if member.recipe.normalize == "dataset":
            raise InputError(
                f"recipe.normalize of '{member.name}' is dataset: its models normalise by the images of different folds, so that "
                "their weights have no mean; name other members by --member, or set normalize to pretrained in a new run."
            )
    check_trained(prepared.run, prepared.members)
    if not prepared.run.reserve.exists():
        raise InputError(
            f"'{prepared.run.root}' holds no one out from everything, but soups need people that no ingredient saw; set "
            "folds.reserve=0.2 in a new run."
        )
    return members


def voted(prepared: PreparedRun) -> tuple[VotingRun, Vote]:
    """The vote of a trained run, which is decided and scored on the people held out unless it is already.

    Raises:
        InputError: a member lacks predictions, or the config names what there is not.
    """
    decided = decide_vote(prepared.context, voting_runs([prepared.run]))
    if read_ensemble(prepared.run).reserve is None:
        score_reserve(prepared.context, decided)
    return decided.runs[0], decided.vote


def make_soups(prepared: PreparedRun, members: Sequence[Member], views: ViewPlan) -> list[ReplicaId]:
    """Makes the uniform and the greedy soup of members' folds; those that were made under the same views are left as they are.

    Args:
        prepared: the run, as `souped_members` passed it.
        members: whose soups are made.
        views: what soups are chosen and scored under.

    Returns:
        Two soups a member.

    Raises:
        InputError: the reserved people are too few to choose by.
    """
    run, context = prepared.run, prepared.context
    unmade = [member for member in members if not soups_are_made(run, member.name, views)]
    if len(unmade) < len(members):
        context.display.line("soup", f"the soups of {len(members) - len(unmade)} of {len(members)} members are made already")
    soups = [ReplicaId(member.name, fold) for member in members for fold in (SOUP, GREEDY_SOUP)]
    if not unmade:
        return soups
    images = prepare_images(prepared)
    folds = replica_folds(images.manifest["fold"])
    slots = plan_slots(context.session.nodes(len(unmade)), context.config.compute, len(unmade))
    check_shared(run.root)
    jobs = [
        SoupJob(
            run,
            prepared.space,
            member,
            member.folds_of(folds),
            images.caches[input_spec(member.recipe).prepared],
            views,
            context.config.seed,
        )
        for member in unmade
    ]
    ingredients = {job.member.name: len(job.folds) for job in jobs}

    def show(made: SoupResult) -> None:
        f1 = {fold: (scores.get(JOINT) or next(iter(scores.values())))["f1"] for fold, scores in made.scores.items()}
        context.display.line(
            "soup",
            f"{made.member}: F1 of {f1[SOUP]:.4f} on people held out from everything; {f1[GREEDY_SOUP]:.4f} is to be expected of "
            f"the greedy soup of {len(made.ingredients)} of {ingredients[made.member]}",
        )

    with timed(run, "soup"):
        make(jobs, slots, show)
    return soups
