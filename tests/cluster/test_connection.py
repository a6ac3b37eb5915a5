"""What Ray's workers find when they start."""

from __future__ import annotations

import os

import pytest
import ray

PAGES_OF_ONE_TENSOR = 32 * 2**20 // 4096


@pytest.mark.usefixtures("ray_session")
def test_workers_use_freed_memory_again_without_mapping_it_again() -> None:
    class Allocator:  # inside the test, so that it travels to a worker that knows no tests
        def page_faults(self) -> int:
            """Pages mapped for ten tensors of 32 MB, taken and freed one after the other in a thread, as in Ray Data's actors."""
            import resource
            import threading

            import torch

            counted = []

            def work() -> None:
                for _ in range(20):
                    torch.ones(8 * 2**20)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                for _ in range(10):
                    torch.ones(8 * 2**20)
                counted.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return counted[0]

    as_for_users = {"env_vars": {"RAYMASK_FORKED_WORKERS": ""}}  # what is forked has the environment of another process
    actor = ray.remote(num_cpus=0.1)(Allocator).options(max_concurrency=2, runtime_env=as_for_users).remote()
    assert ray.get(actor.page_faults.remote()) < PAGES_OF_ONE_TENSOR  # without the workers' environment ten times as many


@pytest.mark.skipif(not os.environ.get("RAYMASK_FORKED_WORKERS"), reason="workers start as they do for users")
@pytest.mark.usefixtures("ray_session")
def test_workers_of_the_tests_have_torch_when_they_start() -> None:
    def has_torch() -> bool:
        import sys

        return "torch" in sys.modules

    assert ray.get(ray.remote(num_cpus=0.1)(has_torch).remote())
