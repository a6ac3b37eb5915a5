"""Tables of predictions, in memory or in shards, with the tasks of a grouping voted over each group of images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymask.core.columns import joint_columns
from raymask.core.tasks import LabelSpace
from raymask.core.types import Labels, Probabilities
from raymask.io.atomic import write_table
from raymask.io.parquet import open_parquet
from raymask.metrics.prediction_sets import PredictionSets
from raymask.runs.folders import PredictionFolder
from raymask.runs.predictions import prediction_table
from raymask.voting.grouping import Grouping, GroupVote


def voted_by_group(
    table: pd.DataFrame, groups: Labels, grouping: Grouping, space: LabelSpace, sets: PredictionSets | None = None
) -> pd.DataFrame:
    """Predictions with the tasks of a grouping voted over each group; rows of images alone are as they were, to the bit.

    An image that has a problem counts in no vote, but is given what its group says. `agreement`, where it is there, stays that
    of the image by itself.

    Args:
        table: predictions, see `raymask.runs.predictions.prediction_table`.
        groups: (N,) numbers of groups, from 0 on.
        grouping: which tasks are pooled, and how.
        space: the label space.
        sets: of images that are voted on by group; needed where the table has sets.
    """
    if not grouping.tasks or table.empty:
        return table
    numbers = of_several(groups)
    vote = GroupVote(space, grouping, int(numbers.max()) + 1)
    _add(vote, table, numbers)
    return _put_back(vote, table, numbers, sets)


def of_several(groups: Labels) -> Labels:
    """(N,) new numbers from 0 on of the groups that have several images, so that few sums are kept; -1 for an image alone.

    Example:
        >>> of_several(np.array([7, 3, 7, 5, 3])).tolist()
        [1, 0, 1, -1, 0]
    """
    _, number, size = np.unique(groups, return_inverse=True, return_counts=True)
    several = size > 1
    return np.asarray(np.where(several, np.cumsum(several) - 1, -1)[number], dtype=np.int64)


def vote_shards_by_group(
    alone: PredictionFolder,
    into: PredictionFolder,
    groups: Labels,
    grouping: Grouping,
    space: LabelSpace,
    sets: PredictionSets | None = None,
) -> None:
    """Writes the shards of one folder into another with the tasks of a grouping voted over each group, as `voted_by_group`.

    One shard at a time is in memory, and the sums of each group. All shards of the other folder are written anew, since a group
    may lie in several; the same shards make the same files.

    Args:
        alone: shards of predictions in which each image is voted on alone.
        into: where the others are written.
        groups: (N,) numbers of groups, from 0 on, of the images in the order of the shards.
        grouping: which tasks are pooled, and how.
        space: the label space.
        sets: as for `voted_by_group`.
    """
    numbers = of_several(groups)
    vote = GroupVote(space, grouping, int(numbers.max()) + 1)
    for _, table, of_shard in _shards(alone, numbers, ["problem", *joint_columns(space)]):
        _add(vote, table, of_shard)
    for number, table, of_shard in _shards(alone, numbers):
        write_table(into.shard(number), _put_back(vote, table, of_shard, sets))


def _shards(
    folder: PredictionFolder, groups: Labels, columns: list[str] | None = None
) -> Iterator[tuple[int, pd.DataFrame, Labels]]:
    """Each shard's number, table and groups."""
    start = 0
    for number in range(len(folder.shards())):
        table = pd.DataFrame(open_parquet(folder.shard(number)).read(columns=columns).to_pandas())
        yield number, table, groups[start : start + len(table)]
        start += len(table)


def _add(vote: GroupVote, table: pd.DataFrame, groups: Labels) -> None:
    here = groups >= 0
    vote.add(_joint(table[here], vote.space), groups[here], _whole(table[here]))


def _put_back(vote: GroupVote, table: pd.DataFrame, groups: Labels, sets: PredictionSets | None) -> pd.DataFrame:
    """The table with what is voted in the rows that are of a group; the others, and the types of all columns, as they were."""
    whole, changed = _whole(table), groups >= 0
    changed[changed] = vote.changes(groups[changed], whole[changed])
    if not changed.any():
        return table
    rows = table[changed]
    joint = vote.put_back(_joint(rows, vote.space), groups[changed], whole[changed])
    voted = prediction_table(rows["image_id"], rows["problem"], joint, vote.space, sets)
    columns = {name: table[name].to_numpy(copy=True) for name in table}
    for name in voted:
        columns[name][changed] = voted[name].to_numpy()
    return pd.DataFrame(columns, index=table.index).astype(table.dtypes.to_dict())


def _joint(table: pd.DataFrame, space: LabelSpace) -> Probabilities:
    return table[joint_columns(space)].to_numpy(np.float64)


def _whole(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    return (table["problem"] == "").to_numpy(dtype=bool)
