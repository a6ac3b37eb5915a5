"""Members that join a finished run: what is there stays, what is cut off goes on, and what is wrong is refused at once."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import VOTE, make_run
from rich.console import Console
from tiny import run_and_read, with_cache

from raymask.core.console import Display
from raymask.core.errors import InputError
from raymask.inference.definition import read_definition
from raymask.inference.voting_runs import by_round, voting_runs
from raymask.io.checked import read_json
from raymask.runs.configs import load_run_config
from raymask.runs.directory import ReplicaId, Run, read_ensemble
from raymask.training.packs import Job, Plan
from raymask.workflows import fold_models
from raymask.workflows.add import add

BIG = "{task: joint, name: big, folds: 1, recipe: {image_size: 40}}"
MULTI = "{task: multi}"


def said_by_add(run: Run, *members: str, **more: Any) -> str:
    said = io.StringIO()
    add(run.root, members, Display(Console(file=said, width=200)), **more)
    return " ".join(said.getvalue().split())


def states(run: Run, *patterns: str) -> dict[str, tuple[bytes, int]]:
    files = [file for pattern in patterns for file in run.root.glob(pattern) if file.is_file()]
    return {str(file.relative_to(run.root)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


OF_JOINT = ("members/joint/**/*", "oof/joint.parquet", "manifest.parquet", "reserve/manifest.parquet", "source.parquet")


@pytest.mark.usefixtures("ray_session")
class TestJoining:
    @pytest.fixture
    def run(self, reserving: tuple[Run, str], tmp_path: Path) -> Run:
        return with_cache(reserving[0], tmp_path)

    def test_what_was_there_stays_and_all_vote(self, run: Run) -> None:
        before = states(run, *OF_JOINT)
        tables = {file: pd.read_parquet(file) for file in (run.test_predictions, run.reserve_predictions)}
        said = said_by_add(run, BIG, MULTI)
        assert len(before) > 5
        assert states(run, *OF_JOINT) == before
        assert "3 models are trained" in said
        for kind in ("28 test", f"{len(pd.read_parquet(run.reserve))} reserve"):
            assert f"{kind} images by 3 models under 2 view(s), and by 2 already" in said
        for file, table in tables.items():
            pd.testing.assert_frame_equal(pd.read_parquet(file)[list(table)], table)
        assert [(member.name or member.task, member.folds) for member in load_run_config(run).members] == [
            ("joint", None),
            ("big", 1),
            ("multi", None),
        ]
        assert set(read_ensemble(run).members) == {"joint", "big", "multi"} < set(read_ensemble(run).oof)
        assert read_ensemble(run).reserve is not None
        assert ">big<" in run.report.read_text()
        [voting] = voting_runs([run])
        rounds = by_round([voting], [pd.read_parquet(run.test_predictions)])
        ballots = [self.joint_of(members) for members in rounds]
        voted = pd.read_parquet(run.predictions).filter(like="joint:").to_numpy()
        np.testing.assert_allclose(voted, np.mean(ballots, axis=0), atol=1e-6)
        assert len(pd.read_csv(run.submission)) == 28

    @staticmethod
    def joint_of(members: Any) -> Any:
        """The soft vote by the joint label, written out: `multi` says of a joint class the product of its parts."""
        mask, gender, age = (members["multi"][task] for task in ("mask", "gender", "age"))
        product = (mask[:, :, None, None] * gender[:, None, :, None] * age[:, None, None, :]).reshape(len(mask), -1)
        return (members["joint"]["joint"] + members["big"]["joint"] + product) / 3

    def test_the_same_command_again_does_nothing(self, run: Run) -> None:
        said_by_add(run, BIG)
        kept = ("members/**/*", "oof/*", "test/*", "reserve/*", "config.yaml", "ensemble.json")
        before = {name: content for name, (content, _) in states(run, *kept).items()}
        models = states(run, "members/**/*", "test/*", "reserve/*")
        said = said_by_add(run, BIG)
        assert {name: content for name, (content, _) in states(run, *kept).items()} == before
        assert states(run, "members/**/*", "test/*", "reserve/*") == models
        for sentence in ("'big' is there already", "1 of 1 models are trained already", "decided already", "predicted already"):
            assert sentence in said
        _, said = run_and_read(load_run_config(run))
        assert "3 of 3 models are trained already" in said
        assert "decided already" in said

    @pytest.mark.parametrize("cut", ["train", "decide_vote", "predict_test_set", "score_reserve", "summarise"])
    def test_cut_off_anywhere_it_goes_on_and_does_nothing_twice(
        self, cut: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        before = states(run, *OF_JOINT)
        with monkeypatch.context() as patch:
            if cut == "train":
                patch.setattr(fold_models, "train", _after_one_pack(vars(fold_models)["train"]))
            else:
                patch.setattr(f"raymask.workflows.add.{cut}", _cut)
            with pytest.raises(KeyboardInterrupt):
                said_by_add(run, "{task: joint, name: big}", MULTI)
        trained = states(run, "members/*/*/model.safetensors", "members/*/*/oof.parquet")
        assert len(trained) > len([name for name in before if name in trained])
        assert load_run_config(run).members[1].name == "big"
        read_definition(run.root)  # which still votes, as it did before
        said = said_by_add(run, "{task: joint, name: big}", MULTI)
        assert states(run, *OF_JOINT) == before
        again = states(run, *trained)
        assert again == trained
        new = 4 - (len(trained) - 4) // 2
        assert (f"{new} models in" in said) == (new > 0)
        assert set(read_ensemble(run).members) == {"joint", "big", "multi"}
        assert sorted(columns_of_models(run)) == [f"{name}/fold-{fold}" for name in ("big", "joint", "multi") for fold in (0, 1)]
        assert read_ensemble(run).reserve is not None
        assert run.report.exists()


def columns_of_models(run: Run) -> set[str]:
    return {name.partition("|")[0] for name in map(str, pd.read_parquet(run.test_predictions)) if "|" in name}


def _cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def _after_one_pack(train: Callable[..., Any]) -> Callable[..., Any]:
    def cut(job: Job, plan: Plan, *more: Any, **named: Any) -> None:
        train(job, Plan(plan.packs[:1], plan.slots), *more, **named)
        raise KeyboardInterrupt

    return cut


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "made", photos, members=[{"task": "joint"}, {"task": "multi", "seeds": 2}])


class TestRefusals:
    """Before anything is written; without Ray."""

    @pytest.mark.parametrize(
        ("member", "sentence"),
        [
            ("{task: gendr}", "members: task is 'gendr'; it may be 'gender' (the nearest)"),
            ("{task: age, seed: 2}", "there is no key '--member.seed'; it may be 'seeds' (the nearest)"),
            ("{name: x}", "'--member.task' is missing; it must be given."),
            ("joint", "--member is 'joint'; it must hold keys and values, such as --member \"{task: joint, name: big"),
            ("{task: joint", "--member '{task: joint' is not valid YAML"),
            ("{task: joint, name: ../x}", "'--member.name' is '../x'; it must be letters"),
            ("{task: joint, name: x, folds: 3}", "members: 'x' has folds=3, but the run has 2 (folds.k)"),
            ("{task: joint, name: x, folds: 0}", "'--member.folds' is 0; "),
            ("{task: joint, name: x, recipe: {optm: {}}}", "there is no key 'recipe.optm'"),
            ("{task: joint, name: ensemble}", "members: 'ensemble' is the name of their vote"),
            ("{task: joint, name: JOINT}", "members: 'joint' and 'JOINT' differ in case alone"),
            ("{task: joint, recipe: {image_size: 40}}", "whose recipe.image_size is 32, not 40; give this one a `name`"),
            ("{task: joint, folds: 1}", "--member: the run has a member 'joint' whose folds is None, not 1;"),
            ("{task: age, name: joint}", "--member: the run has a member 'joint' whose task is joint, not age;"),
            ("{task: multi, seeds: 3}", "--member: the run has some of its 3 copies, such as 'multi-s1';"),
            ("{task: age, name: x, recipe: {backbone: resnt18}}", "resnet18"),
            ("{task: age, name: x, recipe: {weights: /no/file, pretrained: true}}", "there is no file '/no/file'"),
            ("{task: age, recipe: {sampler: {name: balanced, by: hair}}}", "hair"),
        ],
    )
    def test_a_wrong_member_is_refused_in_one_sentence(self, member: str, sentence: str, made: Run) -> None:
        before = states(made, "**/*")
        with pytest.raises(InputError) as refused:
            said_by_add(made, member)
        assert sentence in str(refused.value)
        assert re.fullmatch(r"[^\n]*\.", str(refused.value))
        assert states(made, "**/*") == before

    def test_no_member_is_refused(self, made: Run) -> None:
        with pytest.raises(InputError, match=r"^no member is to be added; name one by --member "):
            said_by_add(made)

    def test_a_run_that_is_not_finished_is_refused(self, made: Run) -> None:
        meta = made.meta(ReplicaId("joint", 1))
        content = meta.read_bytes()
        meta.unlink()
        before = states(made, "**/*")
        with pytest.raises(InputError, match=r"is not trained to its end \(there is no joint/fold-1\)"):
            said_by_add(made, "{task: age}")
        assert states(made, "**/*") == before
        meta.write_bytes(content)

    def test_settings_that_make_another_run_are_refused(self, made: Run) -> None:
        with pytest.raises(InputError, match=r"holds another run: seed was 0 and is 1;"):
            said_by_add(made, "{task: age}", settings=["seed=1"])

    def test_a_member_without_a_fixed_weight_is_refused_before_it_is_trained(self, photos: Path, tmp_path: Path) -> None:
        vote = {**VOTE, "rule": "auto", "level": "task", "weights": {"joint": 1}}
        run = make_run(tmp_path / "weighted", photos, members=[{"task": "joint"}], vote=vote)
        before = read_json(run.ensemble), states(run, "**/*")
        with pytest.raises(InputError, match=r"^vote.weights: 'age' has no weight; give it one, 0 to leave it out\.$"):
            said_by_add(run, "{task: age}")
        assert (read_json(run.ensemble), states(run, "**/*")) == before
