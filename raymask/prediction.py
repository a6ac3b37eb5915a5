"""Predicting images that no run knows: read, predicted shard by shard, written, and summed up."""

from __future__ import annotations

from pathlib import Path

from raymask.config import RunConfig
from raymask.data.sources import label_space
from raymask.data.test_sets import check_missing, read_images
from raymask.display import Display
from raymask.errors import shortened
from raymask.inference import check_models, read_panel
from raymask.machine import usable_memory
from raymask.plan import ActorPool, Node, gpus_worth, plan_actors
from raymask.run_files import write_table
from raymask.session import RaySession
from raymask.submit import submission_table

SHARE_OF_MEMORY = 0.5
"""Of a processor's memory, what models may fill; the rest is for images and activations."""


def predict_images(
    root: Path,
    config: RunConfig,
    images: str,
    out: Path,
    models: str,
    image_column: str | None,
    id_column: str | None,
    image_root: str | None,
    session: RaySession,
    display: Display,
) -> Path:
    """See `raymask.afterwards.predict`."""
    panel, space = read_panel(root, models, config.vote.rule), label_space(config.tasks)
    check_models(panel.models)
    wanted = read_images(images, config.data, space, image_column, id_column, image_root)
    missing = check_missing(wanted, config.data.max_missing_test, "--image-root")
    display.line("data", f"{len(wanted.images)} images; {len(panel.models)} models under {len(panel.vote.views.names)} view(s)")
    for remark in filter(None, [*wanted.remarks, missing]):
        display.warn(remark)
    nodes = session.nodes(gpus_worth(len(wanted.images)))
    from raymask import bulk
    from raymask.cluster import check_shared

    out.mkdir(parents=True, exist_ok=True)
    check_shared(out)
    output = bulk.Output(out)
    changed = bulk.begin(output, wanted.images, bulk.identity_of(panel, config))
    if changed:
        display.line("predict", f"{len(changed)} images have changed since, and are predicted again: {shortened(changed)}")
    pool = plan_actors(nodes)
    groups = bulk.split_models(panel.models, memory_of(nodes, pool))
    if len(groups) > 1:
        display.line("predict", f"the models do not fit into one actor, so that {len(groups)} of them pass each image on")
    with display.counting("predict", "images") as count:
        bulk.predict_shards(panel, groups, output, pool, config.compute.stream_memory_mb * 2**20, count)
    labels = ["image_id", "problem", "joint", *space.names]
    table = bulk.read_predictions(output, labels)
    broken = table[table["problem"] != ""]
    write_table(out / "problems.csv", broken[["image_id", "problem"]])
    if len(broken):
        display.warn(f"{len(broken)} images cannot be read and get the classes' frequencies, see {out / 'problems.csv'}")
    write_table(out / "submission.csv", submission_table(wanted, table, space), wanted.line_end)
    display.line("predict", f"{len(table)} images, see {output.shard(0).parent} and {out / 'submission.csv'}")
    return output.shard(0).parent


def memory_of(nodes: tuple[Node, ...], pool: ActorPool) -> float:
    """Bytes of weights that one actor may hold: a share of a GPU's memory, or of its part of this machine's."""
    if pool.gpus:
        import torch

        if torch.cuda.is_available():
            return SHARE_OF_MEMORY * torch.cuda.get_device_properties(0).total_memory
        return SHARE_OF_MEMORY * 16e9  # the driver's machine has none; the least that is usual
    return SHARE_OF_MEMORY * usable_memory() / max(1, pool.size // len(nodes))
