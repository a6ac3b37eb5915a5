"""The config of the labels to predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from raymask.config.base import ColumnName, Strict
from raymask.core.spelling import canonical, tidy
from raymask.core.tasks import LabelSpace, Task


class TaskConfig(Strict):
    """One label to predict."""

    column: ColumnName | None = Field(None, description="the label's column (default: the task's name)")
    classes: tuple[Annotated[str, AfterValidator(tidy)], ...] | None = Field(
        None, description="the column's values in order (default: found in it)"
    )
    edges: tuple[float, ...] | None = Field(None, description="cut a number into bands at these edges")
    train_edges: tuple[float, ...] | None = Field(None, description="other edges for the loss alone")
    leave_out: tuple[float, ...] | None = Field(
        None, description="numbers that are not learned from, such as [58, 59] before an edge at 60; scores count them"
    )
    valid_range: tuple[float, float] | None = Field(None, description="numbers outside are set aside as wrong")

    @model_validator(mode="after")
    def _edges_fit(self) -> Self:
        for key in ("edges", "train_edges"):
            edges = getattr(self, key)
            if edges is not None and (not edges or list(edges) != sorted(set(edges))):
                raise ValueError(f"{key} must rise from left to right, such as [30, 60], but is {list(edges)}")
        if self.train_edges and self.edges and len(self.train_edges) != len(self.edges):
            raise ValueError("train_edges needs edges with as many numbers")
        if self.classes is not None and len(set(map(canonical, self.classes))) < max(2, len(self.classes)):
            raise ValueError(f"classes must be two or more different names, but is {list(self.classes)}")
        if self.classes is not None and "" in self.classes:
            raise ValueError(f"classes must be names that can be read, but is {list(self.classes)}")
        if self.classes and self.edges and len(self.classes) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges make {len(self.edges) + 1} classes, not {len(self.classes)}")
        if self.valid_range and self.valid_range[0] >= self.valid_range[1]:
            raise ValueError(f"valid_range must rise, such as [0, 120], but is {list(self.valid_range)}")
        return self


def columns_as_tasks(value: Any) -> Any:
    """A list of columns stands for a task of each."""
    return {name: {} for name in value} if isinstance(value, list | tuple) else value


def label_space(tasks: Mapping[str, TaskConfig | None]) -> LabelSpace:
    """The label space of task configs whose classes are known, without the dropped tasks."""
    space = []
    for name, task in tasks.items():
        if task is None:
            continue
        assert task.classes is not None
        edges, train_edges, leave_out = task.edges or (), task.train_edges or (), task.leave_out or ()
        space.append(Task(name, task.column or name, task.classes, edges, train_edges, leave_out))
    return LabelSpace(tuple(space))
