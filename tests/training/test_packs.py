"""Tests of the plan: who is in which pack, and that no cluster is promised more than it has."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from growth import calls_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raymask.cluster.resources import Node, even_chunk, plan_actors, plan_slots, room_of, split_pool
from raymask.config.compute import ComputeConfig
from raymask.config.members import Member
from raymask.config.merging import deep_merge
from raymask.config.recipe import Recipe
from raymask.core.errors import InputError
from raymask.core.tasks import LabelSpace, Task
from raymask.data.specs import BankSpec, InputSpec, StreamSpec, frozen_backbone, input_spec, stream_spec
from raymask.runs.directory import ReplicaId
from raymask.training.packs import MAX_PIECES, Pack, Plan, makespan, plan_run, split_packs

SPACE = LabelSpace((Task("mask", "mask", ("worn", "none")), Task("age", "age", ("<30", "30-60", ">=60"))))
RECIPES = [
    Recipe.model_validate({"pretrained": True, **values})
    for values in (
        {"backbone": "test_resnet"},
        {"backbone": "test_vit", "optim": {"lr": 0.1}},
        {"backbone": "test_resnet", "batch_size": 32},
        {"backbone": "test_resnet", "image_size": (64, 48)},
        {"backbone": "test_resnet", "augment": "heavy"},
        {"backbone": "test_resnet", "schedule": {"epochs": 3}},
        {"backbone": "test_resnet", "freeze": {"part": "backbone"}, "schedule": {"epochs": 30}},
        {"backbone": "test_vit", "freeze": {"part": "backbone"}, "schedule": {"epochs": 30}},
    )
]
NODES = st.builds(
    Node, st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0, 64.0]), st.sampled_from([0, 0, 0, 1, 2, 4, 8])
)
CLUSTERS = st.lists(NODES, min_size=1, max_size=5).filter(lambda nodes: any(node.cpus for node in nodes))
COMPUTES = st.builds(
    ComputeConfig,
    packs_per_gpu=st.integers(1, 7),
    cpu_packs=st.none() | st.integers(1, 300),
    replicas_per_pack=st.integers(1, 20),
)


def members_of(count: int, recipe: Recipe = RECIPES[0]) -> list[Member]:
    return [Member(name=f"m{number}", task="mask", seed=number, recipe=recipe) for number in range(count)]


def stream_of(recipe: Recipe, seed: int = 0, task: str = "mask") -> StreamSpec:
    return stream_spec(recipe, seed, task, SPACE)


def streams_of(members: Sequence[Member]) -> dict[str, StreamSpec]:
    return {member.name: stream_of(member.recipe) for member in members}


def plan_of(members: int, folds: int, nodes: Sequence[Node], **compute: Any) -> Plan:
    return plan_run(members_of(members), range(folds), nodes, ComputeConfig(**compute), streams_of(members_of(members)), {})


def pack_of(member: str, replicas: int, side: int) -> Pack:
    """A pack of a stream of its own whose replicas each cost side × side."""
    stream = StreamSpec(InputSpec(side, side, 1.0), "[]", 64, epochs=1, seed=0)
    return Pack("", tuple(ReplicaId(member, fold) for fold in range(replicas)), stream, epochs=1)


def sizes(plan: Plan) -> list[int]:
    return [len(pack.replicas) for pack in plan.packs]


class TestPacks:
    def test_a_member_of_fewer_folds_has_models_of_the_first_alone(self) -> None:
        one, other = members_of(2)
        few = other.model_copy(update={"folds": 2})
        plan = plan_run([one, few], range(5), [Node(2.0, 0)], ComputeConfig(), streams_of([one, few]), {})
        planned = Counter(replica for pack in plan.packs for replica in pack.replicas)
        assert planned == Counter([*(ReplicaId("m0", fold) for fold in range(5)), ReplicaId("m1", 0), ReplicaId("m1", 1)])

    @settings(deadline=None)
    @given(
        st.lists(st.sampled_from(RECIPES), min_size=1, max_size=12),
        st.integers(1, 5),
        CLUSTERS,
        COMPUTES,
        st.randoms(use_true_random=False),
    )
    def test_every_unfinished_replica_is_in_exactly_one_pack_of_its_own_stream(
        self, recipes: list[Recipe], folds: int, nodes: list[Node], compute: ComputeConfig, rng: random.Random
    ) -> None:
        members = [Member(name=f"m{n}", task="mask", seed=n, recipe=recipe) for n, recipe in enumerate(recipes)]
        every = [ReplicaId(member.name, fold) for member in members for fold in range(folds)]
        finished = rng.sample(every, rng.randint(0, len(every)))
        plan = plan_run(members, range(folds), nodes, compute, streams_of(members), {}, finished)
        planned = Counter(replica for pack in plan.packs for replica in pack.replicas)
        assert planned == Counter(set(every) - set(finished))
        by_name = {member.name: member.recipe for member in members}
        for pack in plan.packs:
            assert 1 <= len(pack.replicas) <= compute.replicas_per_pack
            for replica in pack.replicas:
                recipe = by_name[replica.member]
                assert pack.stream == stream_of(recipe)
                assert (pack.epochs, pack.frozen) == (recipe.schedule.epochs, frozen_backbone(recipe, ""))
        assert [pack.name for pack in plan.packs] == [f"pack-{number}" for number in range(len(plan.packs))]
        assert [pack.cost for pack in plan.packs] == sorted((pack.cost for pack in plan.packs), reverse=True)
        assert 1 <= plan.slots.count <= max(1, len(plan.packs))
        assert plan == plan_run(members, range(folds), nodes, compute, streams_of(members), {}, reversed(finished))

    @pytest.mark.parametrize(
        ("nodes", "expected"),
        [
            ([Node(2)], [8, 7]),
            ([Node(1)], [15]),
            ([Node(16, 4)], [4, 4, 4, 3]),
            ([Node(8, 2), Node(8, 2)], [4, 4, 4, 3]),
            ([Node(4, 1)], [15]),
        ],
    )
    def test_fifteen_equal_replicas_are_shared_out_evenly(self, nodes: list[Node], expected: list[int]) -> None:
        plan = plan_of(3, 5, nodes)
        assert sorted(sizes(plan), reverse=True) == expected
        assert plan.slots.count == len(expected)

    def test_no_slot_has_more_than_its_share(self) -> None:
        for cpus in range(1, 17):
            plan = plan_of(3, 5, [Node(cpus)])
            replicas = [0] * plan.slots.count
            for pack in plan.packs:  # the next pack goes to the slot that is free first
                replicas[replicas.index(min(replicas))] += len(pack.replicas)
            assert max(replicas) == math.ceil(15 / plan.slots.count)

    def test_a_pack_is_split_when_it_is_too_large_for_a_gpus_memory(self) -> None:
        plan = plan_of(20, 2, [Node(8, 1)], replicas_per_pack=16)
        assert sum(sizes(plan)) == 40
        assert max(sizes(plan)) <= 16

    def test_members_of_unequal_streams_are_not_mixed(self) -> None:
        members = [Member(name=f"m{n}", task="mask", seed=0, recipe=recipe) for n, recipe in enumerate(RECIPES)]
        plan = plan_run(members, range(2), [Node(1)], ComputeConfig(), streams_of(members), {})
        together = [{replica.member for replica in pack.replicas} for pack in plan.packs]
        assert {"m0", "m1"} in together  # equal streams, other backbones
        assert len(together) == len(RECIPES) - 1

    @given(
        st.lists(st.tuples(st.integers(1, 400), st.integers(16, 64)), min_size=1, max_size=8),
        st.sampled_from([2, 3, 4, 8, 16, 64]),
        st.sampled_from([8, 16, 1000]),
    )
    @settings(deadline=None)
    def test_slots_end_together_when_replicas_are_many(self, streams: list[tuple[int, int]], slots: int, most: int) -> None:
        whole = [pack_of(f"m{number}", *stream) for number, stream in enumerate(streams)]
        fair_share = sum(pack.cost for pack in whole) / slots
        assume(max(pack.cost / len(pack.replicas) for pack in whole) < 0.04 * fair_share)
        split = split_packs(whole, slots, most)
        assert makespan(split, slots) <= 1.12 * fair_share
        assert len(split) <= MAX_PIECES * slots + sum(-(-len(pack.replicas) // most) for pack in whole) + len(whole)

    @given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 20))
    @settings(deadline=None)
    def test_equal_replicas_are_in_no_more_packs_than_it_takes(self, replicas: int, slots: int, most: int) -> None:
        split = split_packs([pack_of("m", replicas, 64)], slots, most)
        of_replica, even = 64.0**2, math.ceil(replicas / slots)
        assert makespan(split, slots) >= even * of_replica
        if even <= most:
            assert len(split) == min(replicas, slots)
            assert makespan(split, slots) == even * of_replica

    def test_the_fullest_slot_by_hand(self) -> None:
        packs = [pack_of("m", replicas, 10) for replicas in (2, 3, 5, 4)]
        assert makespan(packs, 2) == 700  # 5 + 2 beside 4 + 3
        assert makespan(packs, 1) == 1400
        assert makespan(packs, 9) == 500
        assert makespan([], 3) == 0

    def test_few_streams_of_unequal_length_are_cut_finer_than_slots(self) -> None:
        """Three streams on two slots: 100, 100 and 90 replicas, of which one slot would else train 190."""
        split = split_packs([pack_of(f"m{n}", replicas, 64) for n, replicas in enumerate((100, 100, 90))], 2, 1000)
        assert makespan(split, 2) <= 1.05 * 145 * 64**2
        assert len(split) <= 8

    def test_nothing_unfinished_needs_no_pack(self) -> None:
        finished = [ReplicaId("m0", 0), ReplicaId("m0", 1)]
        members = members_of(1)
        assert plan_run(members, range(2), [Node(2)], ComputeConfig(), streams_of(members), {}, finished).packs == ()

    def test_the_work_of_a_plan_grows_as_its_replicas(self) -> None:
        few, many = (calls_of(lambda members=members: plan_of(members, 10, [Node(64, 8)] * 16)) for members in (250, 1000))
        assert many < 5 * few
        assert sum(sizes(plan_of(1000, 10, [Node(64, 8)] * 16))) == 10_000


class TestChunks:
    @given(st.integers(0, 10_000), st.integers(1, 64), st.integers(1, 100))
    def test_no_worker_has_more_than_its_share_and_one_an_item_for_each_of_its_chunks(
        self, items: int, workers: int, most: int
    ) -> None:
        size = even_chunk(items, workers, most)
        assert 1 <= size <= most
        chunks_of_busiest = math.ceil(math.ceil(items / size) / workers)
        assert chunks_of_busiest <= max(1, math.ceil(items / (workers * most)))
        assert chunks_of_busiest * size <= items / workers + max(1, chunks_of_busiest)

    def test_two_actors_share_210_images_evenly(self) -> None:
        assert even_chunk(210, 2, 64) == 53


class TestSpecs:
    def test_what_changes_pixels_or_order_changes_the_stream(self) -> None:
        streams = [stream_of(recipe) for recipe in RECIPES[:6]]
        assert streams[0] == streams[1]
        assert len(set(streams)) == 5
        assert stream_of(RECIPES[0], 1) != streams[0]

    def test_a_preset_and_its_transforms_spelt_out_are_one_stream(self) -> None:
        flip = {"augment": [{"HorizontalFlip": {"p": 0.5}}]}
        one, other = (Recipe.model_validate({**flip, "pretrained": False, "optim": {"lr": lr}}) for lr in (0.1, 0.2))
        assert stream_of(one) == stream_of(other)
        none = [Recipe.model_validate({"augment": augment, "pretrained": False}) for augment in ("none", [])]
        assert stream_of(none[0]) == stream_of(none[1])

    def test_a_frozen_backbones_stream_has_as_many_epochs_as_passes(self) -> None:
        assert stream_of(RECIPES[6]).epochs == RECIPES[6].freeze.passes == 4
        assert stream_of(RECIPES[0]).epochs == RECIPES[0].schedule.epochs

    def test_a_bank_has_the_passes_and_the_views(self) -> None:
        spec = BankSpec(stream_of(RECIPES[6]), ("original", "hflip"), "off")
        assert spec.parts == ("pass-0", "pass-1", "pass-2", "pass-3", "view-original", "view-hflip")

    def test_frozen_backbones_are_the_same_by_name_weights_and_precision(self) -> None:
        def same(weights: str = "a", **change: object) -> bool:
            recipe = Recipe.model_validate(deep_merge(RECIPES[6].model_dump(), change))
            return frozen_backbone(recipe, weights) == frozen_backbone(RECIPES[6], "a")

        assert frozen_backbone(RECIPES[0], "a") is None
        assert same(optim={"lr": 0.5})
        assert not any((same("b"), same(backbone="test_vit"), same(amp="bf16")))

    def test_input_is_height_before_width(self) -> None:
        assert input_spec(RECIPES[3]) == InputSpec(64, 48, 1.0)


def units(amount: float) -> int:
    """As Ray counts resources: in ten-thousandths, rounded to the nearest."""
    return int(amount * 10_000 + 0.5)


def place(nodes: Sequence[Node], count: int, cpus: float, gpus: float, order: random.Random) -> list[int] | None:
    """Free CPUs of each node after `count` slots each took some node that has room; None when one finds none."""
    free_cpus = [units(node.cpus) for node in nodes]
    parts_of_gpus = [[10_000] * int(node.gpus) for node in nodes]
    for _ in range(count):
        fitting = [
            number
            for number in range(len(nodes))
            if free_cpus[number] >= units(cpus) and (not gpus or any(part >= units(gpus) for part in parts_of_gpus[number]))
        ]
        if not fitting:
            return None
        number = order.choice(fitting)
        free_cpus[number] -= units(cpus)
        if gpus:
            parts = parts_of_gpus[number]
            parts[next(place for place, part in enumerate(parts) if part >= units(gpus))] -= units(gpus)
    return free_cpus


class Stacking(random.Random):
    """Lays all on one node while it has room: what is worst for that node's streams."""

    def choice(self, options: Any) -> Any:
        return options[0]


class TestPlacement:
    @settings(max_examples=200, deadline=None)
    @given(CLUSTERS, COMPUTES, st.integers(0, 400), st.integers(0, 5))
    def test_however_slots_are_laid_all_find_a_place_and_a_stream_too(
        self, nodes: list[Node], compute: ComputeConfig, packs: int, seed: int
    ) -> None:
        slots = plan_slots(nodes, compute, packs)
        assert slots.count >= 1
        assert slots.threads >= 1
        for order in (random.Random(seed), Stacking()):
            free = place(nodes, slots.count, slots.cpus, slots.gpus, order)
            assert free is not None, "a pack has no place"
            assert max(free) >= units(slots.stream_cpus) > 0, "streams have no place: training would hang for ever"

    @settings(max_examples=200, deadline=None)
    @given(CLUSTERS, st.integers(0, 5))
    def test_however_actors_are_laid_all_find_a_place_and_a_decoder_too(self, nodes: list[Node], seed: int) -> None:
        pool = plan_actors(nodes)
        for order in (random.Random(seed), Stacking()):
            free = place(nodes, pool.size, pool.cpus, pool.gpus, order)
            assert free is not None, "an actor has no place"
            assert max(free) >= units(pool.decode_cpus) > 0, "decoding has no place: prediction would hang for ever"

    @settings(deadline=None)
    @given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 200))
    def test_equal_nodes_without_gpus_each_keep_a_cpu_or_half_of_their_one_free(self, cpus: int, nodes: int, packs: int) -> None:
        slots = plan_slots([Node(cpus)] * nodes, ComputeConfig(), packs)
        on_one_node = -(-slots.count // nodes)
        free = cpus - on_one_node * slots.cpus
        assert free >= (1 if cpus >= 2 else 0.5) - 1e-9
        assert on_one_node * slots.threads <= cpus

    @settings(deadline=None)
    @given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 4), st.integers(1, 200))
    def test_beside_gpus_half_of_the_cpus_stay_free(self, cpus: int, gpus: int, per_gpu: int, packs: int) -> None:
        slots = plan_slots([Node(cpus, gpus)], ComputeConfig(packs_per_gpu=per_gpu), packs)
        assert slots.count == min(packs, gpus * per_gpu)
        assert gpus * per_gpu * slots.cpus <= cpus / 2 + 1e-9

    def test_by_hand(self) -> None:
        slots = plan_slots([Node(2)], ComputeConfig(), 15)
        assert (slots.count, slots.cpus, slots.threads, slots.stream_cpus) == (2, 0.5, 1, 0.5)
        slots = plan_slots([Node(16)], ComputeConfig(), 4)
        assert (slots.count, slots.cpus, slots.threads, slots.stream_cpus) == (4, 3.0, 4, 1.0)
        slots = plan_slots([Node(1)], ComputeConfig(), 15)
        assert (slots.count, slots.cpus, slots.threads, slots.stream_cpus) == (1, 0.5, 1, 0.5)
        slots = plan_slots([Node(32, 4)], ComputeConfig(packs_per_gpu=2), 99)
        assert (slots.count, slots.cpus, slots.gpus, slots.threads) == (8, 1.0, 0.5, 2)

    def test_a_small_head_does_not_make_the_large_nodes_small(self) -> None:
        gpus = plan_slots([Node(2), Node(16, 4), Node(16, 4)], ComputeConfig(), 50)
        assert (gpus.count, gpus.cpus, gpus.gpus, gpus.threads) == (8, 1.0, 1.0, 2)
        one = plan_slots([Node(2), Node(16), Node(16)], ComputeConfig(), 1)
        assert (one.count, one.threads) == (1, 16)
        many = plan_slots([Node(2), Node(16), Node(16)], ComputeConfig(), 50)
        assert (many.count, many.threads) == (34, 1)

    def test_a_head_without_cpus_counts_for_nothing(self) -> None:
        assert plan_slots([Node(0), Node(8)], ComputeConfig(), 4) == plan_slots([Node(8)], ComputeConfig(), 4)
        assert plan_actors([Node(0), Node(8)]) == plan_actors([Node(8)])

    def test_a_pack_of_a_sixth_of_a_gpu_fits_six_times(self) -> None:
        """1/6 rounded to Ray's precision would fit five times."""
        slots = plan_slots([Node(16, 1)], ComputeConfig(packs_per_gpu=6), 6)
        assert units(slots.gpus) * 6 <= 10_000

    def test_fewer_packs_get_more_threads(self) -> None:
        assert [plan_of(1, folds, [Node(8)]).slots.threads for folds in (1, 2, 4, 8)] == [8, 4, 2, 1]

    def test_cpu_packs_sets_how_many_run_side_by_side(self) -> None:
        assert plan_of(3, 5, [Node(8)], cpu_packs=2).slots.count == 2
        assert plan_of(3, 5, [Node(2)], cpu_packs=4).slots.count == 4

    @pytest.mark.parametrize("nodes", [[], [Node(0)], [Node(0, 4), Node(0)]])
    def test_a_cluster_without_a_cpu_is_refused(self, nodes: list[Node]) -> None:
        with pytest.raises(InputError, match="offers no CPU"):
            plan_of(1, 2, nodes)
        with pytest.raises(InputError, match="offers no CPU"):
            plan_actors(nodes)

    def test_actors_are_one_a_gpu_or_one_a_cpu(self) -> None:
        assert [(pool.size, pool.gpus) for pool in map(plan_actors, ([Node(16, 4)], [Node(6)], [Node(2), Node(4)]))] == [
            (4, 1.0),
            (6, 0.0),
            (6, 0.0),
        ]

    @settings(deadline=None)
    @given(st.lists(st.builds(Node, st.integers(1, 16), st.integers(0, 4)), min_size=1, max_size=4), st.integers(1, 6))
    def test_groups_of_models_share_a_pool(self, nodes: list[Node], groups: int) -> None:
        pool = plan_actors(nodes)
        if pool.gpus and pool.size < groups:
            with pytest.raises(InputError, match=rf"the models fill {groups} GPUs, and there are {pool.size}; predict by fewer"):
                split_pool(pool, groups)
            return
        of_group = split_pool(pool, groups)
        assert of_group.size >= 1
        assert groups * of_group.size * of_group.gpus <= pool.size * pool.gpus
        assert groups * of_group.size * of_group.cpus <= pool.size * pool.cpus + 1e-9

    def test_what_a_slot_has_in_words(self) -> None:
        for node, words in (
            (Node(8), "1 thread(s) each"),
            (Node(8, 4), "0.5 GPU each"),
            (Node(8, 4, cuda=False), "1 thread(s) each beside 0.5 GPU that torch cannot use"),
        ):
            assert room_of(plan_slots([node], ComputeConfig(packs_per_gpu=2), 9), [node]) == words
