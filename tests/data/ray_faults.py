"""Fault schedules on a Ray cluster of one machine: workers, the coordinator, or a whole node are killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import faults
import toys

STORE = 100 * 2**20  # bytes of each node's object store


@contextlib.contextmanager
def cluster():
    """A head with two cores; nothing is left behind."""
    folder = tempfile.mkdtemp(prefix="ray-")  # its own: whoever else runs Ray here must not find this cluster
    os.environ.update({"RAY_TMPDIR": folder, "RAY_worker_niceness": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"})
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def on_ray(made, run, rng, what):
    """One search with two workers (three with the node that is to be lost).

    Args:
        made: The cluster.
        run: Where.
        rng: Of the moments.
        what: "actors" (a worker, then the coordinator, in either order) or "node".
    """
    from autoprune.workers.cluster import Share, run_cluster

    run.mkdir()
    report, side, desks = faults.Report(), run.parent / "side.txt", run / "coordinator.txt"
    first, second = rng.randint(4, 14), rng.randint(18, 30)

    def kill(path, at):
        with contextlib.suppress(ProcessLookupError, IndexError, OSError):
            os.kill(int(path.read_text().split()[at]), signal.SIGKILL)
            report.kills += 1
            report.in_flight += 1

    acts = [(first, lambda: kill(side, -1)), (second, lambda: kill(desks, -1))]
    if rng.random() < 0.5:
        acts = [(first, acts[1][1]), (second, acts[0][1])]
    if what == "node":
        node = made.add_node(num_cpus=1, object_store_memory=STORE)

        def lose():
            made.remove_node(node, allow_graceful=False)
            report.kills += 1
            report.in_flight += 1

        acts = [(first + 8, lose)]
    over = threading.Event()

    def haunt():
        for count, act in acts:
            while len(faults.begun(side)) < count and not over.is_set():
                time.sleep(0.002)
            if not over.is_set():
                act()

    ghost = threading.Thread(target=haunt)
    ghost.start()
    try:
        make = toys.MakeEvaluator(str(side), 0.1)
        run_cluster(toys.OpenSearch(str(run)), make, Share(3 if what == "node" else 2, 1), run / "ray")
    finally:
        over.set()
        ghost.join()
    return faults.check(run, side, report)
