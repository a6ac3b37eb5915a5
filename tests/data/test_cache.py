"""Tests of prepared images on disk. The caches are written by hand, as `prepare` writes them on Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymask.data.cache import cache_key, find_cache, index_path, open_cache, problems, shard_path, shard_rows
from raymask.data.specs import InputSpec

SPEC = InputSpec(4, 6, 1.0)
IMAGES = pd.DataFrame(
    {
        "image_id": ["a", "b", "c"],
        "path": ["/d/a.jpg", "/d/b.jpg", "/d/c.jpg"],
        "size": [10, 20, 30],
        "stamp": ["1.5", "2.5", "3.5"],
        "digest": ["aa", "bb", "cc"],
        "label_joint": [0, 1, 2],
    }
)


def pixels_of(image_id: str) -> np.ndarray:
    """(4, 6, 3) pixels that differ for each id."""
    return np.full((4, 6, 3), sum(map(ord, image_id)) % 251, dtype=np.uint8)


def write_cache(folder: Path, shards: list[list[str]], broken: dict[str, str] | None = None) -> Path:
    """A cache of these ids by shard; broken ones have a row but no pixels."""
    rows = []
    folder.mkdir(parents=True)
    for shard, ids in enumerate(shards):
        whole = [image_id for image_id in ids if image_id not in (broken or {})]
        pixels = np.stack([pixels_of(image_id) for image_id in whole]) if whole else np.empty((0, 4, 6, 3), np.uint8)
        np.save(shard_path(folder, shard), pixels)
        rows += [
            {
                "image_id": image_id,
                "shard": shard,
                "offset": whole.index(image_id) if image_id in whole else -1,
                "problem": (broken or {}).get(image_id, ""),
            }
            for image_id in ids
        ]
    pd.DataFrame(rows).to_parquet(index_path(folder), index=False)
    return folder


# --- the key


def test_the_key_is_the_same_for_the_same_files_and_steps() -> None:
    assert cache_key(IMAGES, SPEC) == cache_key(IMAGES.copy(), InputSpec(4, 6, 1.0))


def test_the_key_does_not_depend_on_labels_or_on_the_index() -> None:
    other = IMAGES.assign(label_joint=[2, 1, 0], group="x", fold=1).set_index(pd.Index([5, 6, 7]))
    assert cache_key(other, SPEC) == cache_key(IMAGES, SPEC)


@pytest.mark.parametrize("column", ["image_id", "digest"])
@pytest.mark.parametrize("row", [0, 2])
def test_the_key_changes_with_each_image_and_its_content(column: str, row: int) -> None:
    changed = IMAGES.copy()
    changed.loc[row, column] = "9.9"
    assert cache_key(changed, SPEC) != cache_key(IMAGES, SPEC)


def test_the_key_does_not_depend_on_where_and_when_files_were_written() -> None:
    copied = IMAGES.assign(path=[f"/elsewhere/{n}" for n in range(3)], stamp="9", size=7)
    assert cache_key(copied, SPEC) == cache_key(IMAGES, SPEC)


@pytest.mark.parametrize("spec", [InputSpec(6, 4, 1.0), InputSpec(4, 7, 1.0), InputSpec(4, 6, 0.9)])
def test_the_key_changes_with_each_step(spec: InputSpec) -> None:
    assert cache_key(IMAGES, spec) != cache_key(IMAGES, SPEC)


def test_the_key_changes_when_an_image_is_left_out() -> None:
    assert len({cache_key(IMAGES, SPEC), cache_key(IMAGES[:2], SPEC), cache_key(IMAGES[1:], SPEC)}) == 3


CELLS = st.text("12", max_size=2)
TABLES = st.lists(st.tuples(CELLS, CELLS), max_size=3)


@given(one=TABLES, other=TABLES)
def test_the_key_does_not_confuse_neighbouring_values(one: list[tuple[str, ...]], other: list[tuple[str, ...]]) -> None:
    keys = [cache_key(pd.DataFrame(rows, columns=["image_id", "digest"]), SPEC) for rows in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_names_in_any_letters_have_a_key() -> None:
    keys = {cache_key(IMAGES.assign(image_id=["a", "b", name]), SPEC) for name in ("é", "e\u0301", "사람", "🙂")}
    assert len(keys) == 4


def test_the_key_does_not_change_with_what_is_seen_of_the_images() -> None:
    assert cache_key(IMAGES, InputSpec(4, 6, 1.0, (2, 4))) == cache_key(IMAGES, SPEC)


def test_a_model_sees_the_centre_of_each_image(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", [["a", "b"], ["c"]])
    np.save(shard_path(folder, 0), np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3)).astype(np.uint8))
    prepared = open_cache(folder, IMAGES["image_id"])
    rows = [2, 0, 1]
    np.testing.assert_array_equal(prepared.seen_by(InputSpec(4, 6, 1.0, (2, 3))).read(rows), prepared.read(rows)[:, 1:3, 1:4])
    np.testing.assert_array_equal(prepared.seen_by(SPEC).read(rows), prepared.read(rows))


# --- the folder


def test_a_cache_is_whole_when_its_index_is_there(tmp_path: Path) -> None:
    folder, whole = find_cache(IMAGES, SPEC, tmp_path)
    assert folder.parent == tmp_path
    assert folder.name == f"{cache_key(IMAGES, SPEC)}-4x6"
    assert not whole
    write_cache(folder, [["a", "b", "c"]])
    assert find_cache(IMAGES, SPEC, tmp_path) == (folder, True)
    index_path(folder).unlink()
    assert find_cache(IMAGES, SPEC, tmp_path) == (folder, False)


@pytest.mark.parametrize(("side", "rows"), [(8, 512), (224, 445), (512, 85), (4096, 16)])
def test_shards_have_about_64_megabytes_but_not_too_many_or_few_images(side: int, rows: int) -> None:
    assert shard_rows(InputSpec(side, side, 1.0)) == rows


# --- reading


def test_images_are_in_the_order_of_the_ids_and_not_of_the_index(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", [["d", "a"], ["c", "e", "b"]])
    ids = pd.Series(["c", "a", "b", "e", "d"], index=[9, 8, 7, 6, 5])
    prepared = open_cache(folder, ids)
    np.testing.assert_array_equal(prepared.read(range(5)), np.stack([pixels_of(image_id) for image_id in ids]))
    np.testing.assert_array_equal(prepared.read([4, 0, 0]), np.stack([pixels_of(image_id) for image_id in "dcc"]))


def test_a_part_of_a_cache_can_be_opened(tmp_path: Path) -> None:
    prepared = open_cache(write_cache(tmp_path / "cache", [["a", "b"], ["c"]]), pd.Series(["c"]))
    np.testing.assert_array_equal(prepared.read([0]), pixels_of("c")[None])
    with pytest.raises(IndexError):
        prepared.read([1])


def test_no_rows_are_an_empty_batch(tmp_path: Path) -> None:
    prepared = open_cache(write_cache(tmp_path / "cache", [["a"]]), pd.Series(["a"]))
    assert prepared.read([]).shape == (0, 4, 6, 3)


def test_what_was_read_can_be_changed_without_changing_the_cache(tmp_path: Path) -> None:
    prepared = open_cache(write_cache(tmp_path / "cache", [["a"]]), pd.Series(["a"]))
    prepared.read([0])[:] = 0
    np.testing.assert_array_equal(prepared.read([0]), pixels_of("a")[None])


def test_pixels_stay_on_disk_until_they_are_read(tmp_path: Path) -> None:
    prepared = open_cache(write_cache(tmp_path / "cache", [["a"], ["b"]]), pd.Series(["a", "b"]))
    prepared.read([0, 1])
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_an_id_without_a_row_is_an_error(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", [["a", "b"]])
    with pytest.raises(KeyError, match="stranger"):
        open_cache(folder, pd.Series(["a", "stranger"]))


# --- broken images


BROKEN = {"b": "the file is empty", "c": "the image is broken (truncated)"}


def test_broken_images_are_told_with_their_reason(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", [["a", "b"], ["c"]], BROKEN)
    assert problems(folder).to_dict("list") == {"image_id": ["b", "c"], "reason": list(BROKEN.values())}
    assert problems(write_cache(tmp_path / "other", [["a"]])).empty


def test_whole_images_beside_broken_ones_are_read(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", [["b", "a"], ["c"], ["d", "e"]], BROKEN)  # the shard of c has no pixels
    ids = pd.Series(["e", "a", "d"])
    np.testing.assert_array_equal(open_cache(folder, ids).read([0, 1, 2]), np.stack([pixels_of(i) for i in ids]))


def test_a_cache_whose_last_shards_are_all_broken_is_read(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", [["a"], ["b", "c"]], BROKEN)
    np.testing.assert_array_equal(open_cache(folder, pd.Series(["a"])).read([0]), pixels_of("a")[None])


def test_a_broken_image_cannot_be_opened(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", [["a", "b"]], BROKEN)
    with pytest.raises(AssertionError, match="set aside"):
        open_cache(folder, pd.Series(["a", "b"]))
