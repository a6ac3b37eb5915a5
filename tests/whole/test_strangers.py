"""A stranger's run or export: nothing in it is executed, nothing in it chooses where files are read or written."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from made import make_run

from raymask.config.loading import load_config
from raymask.core.errors import InputError
from raymask.export.export import GraphFormat, export
from raymask.export.model_card import model_card
from raymask.inference.definition import read_definition
from raymask.inference.ensemble import load
from raymask.io.atomic import write_json
from raymask.io.checked import DamagedFileError, read_json
from raymask.runs.configs import load_run_config, settled_config
from raymask.runs.directory import ReplicaId, Run
from raymask.serving.deployment import Settings, serve_until_stopped
from raymask.workflows import distill, predict, refit, soup, vote


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("strange") / "run", photos, members=[{"task": "multi"}])


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(made.root, tmp_path / "run"))


def change(file: Path, how: Callable[[dict[str, Any]], None]) -> None:
    written = read_json(file)
    how(written)
    write_json(file, written)


def doors(run: Run, out: Path) -> list[Callable[[], object]]:
    """Everything that reads a run's vote."""
    return [
        lambda: load(run.root),
        lambda: export(run.root, out / "exported"),
        lambda: serve_until_stopped(run.root, Settings(port=1)),
        lambda: read_definition(run.root),
    ]


def skops_of(code: str) -> str:
    """What skops wrote of trees, but made to call a function of numpy that executes a text."""
    text = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(code), "is_json": True}
    nothing = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": []}
    empty = {"__class__": "dict", "__module__": "builtins", "__loader__": "DictNode", "content": {}, "key_types": nothing}
    arguments = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": [text, empty]}
    calls = {"__class__": "runstring", "__module__": "numpy.testing._private.utils", "__loader__": "ConstructorFromReduceNode"}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("schema.json", json.dumps({**calls, "content": arguments, "protocol": 2, "_skops_version": "0.16.0"}))
    return base64.b64encode(archive.getvalue()).decode()


def test_trees_of_a_file_are_numbers_and_run_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYMASK_RAN", raising=False)
    model = skops_of("import os; os.environ['RAYMASK_RAN'] = 'yes'")

    def boosted(written: dict[str, Any]) -> None:
        tasks = ("mask", "gender", "age")
        written["vote"] |= {"rule": "boosted", "level": "task", "voters": {task: ["multi"] for task in tasks}}
        written["vote"] |= {"params": {task: {"model": model} for task in tasks}, "factors": dict.fromkeys(tasks)}

    change(run.ensemble, boosted)
    for door in doors(run, tmp_path):
        with pytest.raises(DamagedFileError, match=r"ensemble\.json' is damaged .*has model in place of .*again"):
            door()
    assert "RAYMASK_RAN" not in os.environ


class TestRule:
    @pytest.fixture
    def imported(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
        """What the code that lies in the run's folder writes when it is imported; Python looks for modules there."""
        trace = run.root / "imported"
        code = f"open({str(trace)!r}, 'w').close()\ndef rule(ballots):\n    return ballots.mean(axis=0)\n"
        (run.root / "lies_beside.py").write_text(code)
        monkeypatch.syspath_prepend(run.root)
        monkeypatch.delitem(sys.modules, "lies_beside", raising=False)
        config = yaml.safe_load(run.config.read_text())
        config["vote"]["rule"] = "lies_beside:rule"
        run.config.write_text(yaml.safe_dump(config, explicit_end=True))
        change(run.ensemble, lambda written: written["vote"].update(rule="lies_beside:rule"))
        return trace

    def test_no_door_follows_a_rule_that_a_file_names(self, run: Run, imported: Path, tmp_path: Path) -> None:
        more: list[Callable[[], object]] = [
            lambda: vote.vote([run.root]),
            lambda: refit.refit(run.root),
            lambda: soup.soup(run.root),
            lambda: distill.pseudo(run.root),
            lambda: distill.distil(run.root),
            lambda: predict.predict(run.root, "photos", tmp_path / "out"),
            lambda: load_config(run.config),
            lambda: load_config(self.recipe_on(run, tmp_path)),
        ]
        for door in [*doors(run, tmp_path), *more]:
            with pytest.raises(InputError, match=r"names the rule 'lies_beside:rule', which is code .*--rule lies_beside:rule"):
                door()
        assert not imported.exists()

    def recipe_on(self, run: Run, tmp_path: Path) -> Path:
        (tmp_path / "mine.yaml").write_text(f"base: {run.config}\n")
        return tmp_path / "mine.yaml"

    def test_the_caller_gives_it(self, run: Run, imported: Path, photos: Path) -> None:
        photo = next(photos.rglob("*.jpg"))
        assert len(load(run.root, rule="lies_beside:rule").predict([photo])) == 1
        assert imported.exists()
        assert settled_config(run, ["vote.rule=lies_beside:rule"]).vote.rule == "lies_beside:rule"
        assert settled_config(run, ["vote.rule=soft"]).vote.rule == "soft"
        assert load_run_config(run).vote.rule == "lies_beside:rule"

    def test_another_than_the_caller_gives_is_refused(self, run: Run, imported: Path) -> None:
        with pytest.raises(InputError, match="names the rule 'lies_beside:rule'"):
            load(run.root, rule="own_votes:rule")
        assert not imported.exists()

    def test_a_recipe_of_the_callers_may_name_one(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("base: demo\nvote: {rule: 'my.votes:rule'}\n")
        assert load_config(tmp_path / "mine.yaml").vote.rule == "my.votes:rule"


BAD_NAMES = ["../../x", "/tmp/x", "..", "a/../../x", "a\\..\\x", "x\0y", "", "a/b/c", "C:x", "x\n"]


class TestNames:
    @pytest.mark.parametrize("name", BAD_NAMES)
    @pytest.mark.parametrize("place", ["in the vote", "in its run"])
    def test_of_members_lead_nowhere_else(self, run: Run, tmp_path: Path, name: str, place: str) -> None:
        def rename(written: dict[str, Any]) -> None:
            if place == "in its run":
                written["members"]["multi"]["member"] = name
                return
            written["members"] = {name: {"member": "multi"}}
            written["vote"]["calibrations"] = {name: written["vote"]["calibrations"]["multi"]}
            written["vote"]["voters"] = {space: [name] for space in written["vote"]["voters"]}

        change(run.ensemble, rename)
        before = sorted(tmp_path.rglob("*"))
        for door in doors(run, tmp_path):
            with pytest.raises(InputError, match=r"ensemble\.json' is damaged"):
                door()
        assert sorted(tmp_path.rglob("*")) == before

    def test_of_runs_are_whole_paths(self, run: Run) -> None:
        for where in ("../other", "s3://bucket/run", "", "a\0b"):
            change(run.ensemble, lambda written, where=where: written["members"]["multi"].update(run=where))  # type: ignore[misc]
            with pytest.raises(DamagedFileError, match=r"ensemble\.json' is damaged"):
                read_definition(run.root)

    def test_of_heads_and_classes_are_those_of_the_config(self, run: Run) -> None:
        file = run.meta(ReplicaId("multi", 0))
        for classes in ({"../x": ["a", "b"]}, {"mask": ["a", "b", "c"]}, {"mask": []}):
            change(file, lambda meta, classes=classes: meta.update(classes=classes))  # type: ignore[misc]
            with pytest.raises(DamagedFileError, match=r"meta\.json' is damaged"):
                read_definition(run.root)

    def test_in_the_config_are_checked_as_a_users(self, run: Run, tmp_path: Path) -> None:
        config = yaml.safe_load(run.config.read_text())
        config["members"] = [{"task": "multi", "name": "../../x"}]
        run.config.write_text(yaml.safe_dump(config, explicit_end=True))
        for door in [*doors(run, tmp_path), lambda: vote.vote([run.root])]:
            with pytest.raises(DamagedFileError, match=r"config\.yaml' is damaged"):
                door()


def test_names_are_texts_on_a_model_card(run: Run, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "![x](http://x/y.png)", "`a` | [b](javascript:c)"]
    config = yaml.safe_load(run.config.read_text())
    config["tasks"]["mask"]["classes"] = names
    run.config.write_text(yaml.safe_dump(config, explicit_end=True))
    told = {"models": {}, "left_out": [names[0]], "vote": {"in_words": ""}, "opset": None, "part": None, "timm": {}}
    told |= {"ensemble": None, "inputs": {}}
    for file in (run.oof_ensemble, run.manifest):
        file.unlink()
    change(run.ensemble, lambda written: written.update(estimate_of=names[1]))
    card = model_card(run, load_run_config(run), told)
    prose = card.partition("<details>")[0]
    assert "&lt;script>" in prose
    assert "<script" not in prose
    assert not re.search(r"(?<!\\)\]\(", prose)
    assert card.count("```") == 2


class TestLinks:
    def test_planted_in_a_run_lead_no_file_of_mine_into_an_export(self, run: Run, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("mine")
        weights = run.weights(ReplicaId("multi", 0))
        weights.unlink()
        weights.symlink_to(secret)
        with pytest.raises(InputError, match="is a link that leads out of"):
            export(run.root, tmp_path / "out", graphs=GraphFormat("torch"))
        assert not (tmp_path / "out").exists()

    def test_planted_in_a_run_take_no_writes(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        shutil.rmtree(run.root / "oof")
        (run.root / "oof").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="is a link that leads out of"):
            vote.vote([run.root])
        assert not list((tmp_path / "elsewhere").iterdir())
