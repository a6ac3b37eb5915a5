"""The config of a run's images, their labels' table and their folds."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from raymask.config.base import ColumnName, PathText, Positive, Share, Strict


def _text_encoding(name: str) -> str:
    try:
        "a".encode(name).decode(name)
    except (LookupError, ValueError):
        raise ValueError(f"there is no encoding '{name}'; it may be utf-8, utf-16, cp949, cp1252 or another") from None
    return name


def _one_character(text: str) -> str:
    separator = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(separator) != 1 or separator in '"\r\n':
        raise ValueError(f"it must be one character, such as ';', or tab, but is '{text}'")
    return separator


class DataConfig(Strict):
    """Where the images and their labels are."""

    kind: Literal["auto", "demo", "competition", "csv", "folders"] = Field(
        "auto", description="layout of the data; `auto` looks at the path"
    )
    path: PathText | None = Field(None, description="training data: a folder, a CSV file or a URL; none for demo")
    test: PathText | None = Field(None, description="test data: a CSV or a folder; found by itself in the competition layout")
    image_column: ColumnName = Field("image", description="column of a CSV that holds the image's path")
    id_column: ColumnName | None = Field(None, description="column of a CSV that holds the image's id (default: its path)")
    group_column: ColumnName | None = Field(None, description="column of a CSV whose rows must share a fold, such as the person")
    test_group_column: ColumnName | None = Field(
        None, description="column of a test file whose rows are of one group (default: group_column, where the file has it)"
    )
    image_root: PathText | None = Field(None, description="folder that relative image paths start from (default: the CSV's)")
    test_root: PathText | None = Field(
        None, description="folder that relative paths of a test file start from (default: image_root, or the file's)"
    )
    encoding: Annotated[str, AfterValidator(_text_encoding)] | None = Field(
        None, description="encoding of CSV files (default: utf-8), such as cp949 or utf-16"
    )
    separator: Annotated[str, AfterValidator(_one_character)] | None = Field(
        None, description="what separates the values of CSV files: one character, or `tab` (default: by the file's name)"
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of the groups and test images that are used; of a class with few groups more, for the folds"
    )
    max_missing_test: Share = Field(0.5, description="share of test images that may be missing before the run is refused")
    max_rejected: Share = Field(0.02, description="share of images that may be set aside before the run is refused")
    demo_people: Positive = Field(80, description="people drawn for the demo's training set")
    demo_test_people: Positive = Field(20, description="people drawn for the demo's test set")


class FoldsConfig(Strict):
    """How people are divided for validation."""

    scheme: Literal["stratified_group", "group", "stratified", "kfold", "holdout"] = "stratified_group"
    k: Annotated[int, Field(ge=2)] = Field(5, description="number of folds; `holdout` validates on one part in k")
    column: ColumnName | None = Field(None, description="column of a table that names each image's fold; k is then their number")
    reserve: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="share of the groups held out from everything, to score the finished ensemble once"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.column is not None and self.scheme != "stratified_group":
            raise ValueError(f"column names the folds, so that scheme={self.scheme} has no effect: leave one of them out")
        return self

    @property
    def how(self) -> str:
        """How images are divided, in a word or two."""
        return f"by column '{self.column}'" if self.column else self.scheme
