"""The config of the resources that a run may use."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raymask.config.base import Positive, Strict


class ComputeConfig(Strict):
    """What the run may use."""

    cpus: Positive | None = Field(None, description="CPUs of a Ray that this run starts (default: all)")
    gpus: Annotated[int, Field(ge=0)] | None = Field(
        None, description="GPUs that this run uses, of a Ray that it starts or demanded of a cluster (default: all)"
    )
    packs_per_gpu: Positive = Field(1, description="packs that share one GPU")
    cpu_packs: Positive | None = Field(None, description="packs side by side without GPUs (default: one a CPU)")
    replicas_per_pack: Positive = Field(16, description="most fold models in one pack; lower it when a GPU's memory is short")
    retries: Annotated[int, Field(ge=0)] = Field(2, description="times a pack is begun again when its process or node dies")
    wait_minutes: Annotated[float, Field(gt=0)] = Field(
        30, description="minutes that machines are waited for which a cluster starts, or has lost"
    )
    stream_memory_mb: Positive = Field(256, description="batches a pack may have waiting in the object store")
