"""A search that costs nothing: toy groups, a toy evolution, a toy evaluator. Also a script, to be killed.

python toys.py RUN NUM_WORKERS [URL]     # runs or resumes; every evaluation appends "number pid" to RUN/side.txt
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np

from autoprune.problem import Proposal

GROUPS = {f"layer{i}": 8 + i for i in range(6)}
SIZES = np.array(list(GROUPS.values()))
WARM_STARTS = [(4, 4, 5, 5, 6, 6), (4, 4, 5, 5, 6, 6), (8, 9, 10, 11, 12, 13)]  # the second is known when it is asked
NUM_TRIALS = 40
FINALISTS = (3, "short")


class Evolution:
    """Regularised evolution over widths, with the project's two verbs."""

    def __init__(self, seed=0, population=8):
        self.seed, self.population = seed, deque(maxlen=population)

    def propose(self, number):
        return Proposal(WARM_STARTS[number] if number < len(WARM_STARTS) else self.ask(number))

    def ask(self, number):
        rng = np.random.default_rng([self.seed, number])
        if len(self.population) < self.population.maxlen:
            return tuple(int(w) for w in rng.integers(1, SIZES + 1))
        picked = rng.choice(len(self.population), 3, replace=False)
        parent = np.array(min((self.population[i] for i in picked), key=lambda t: t.loss).widths)
        return tuple(int(w) for w in np.clip(parent + rng.integers(-1, 2, len(parent)), 1, SIZES))

    def tell(self, trial):
        self.population.append(trial)


def measure(job):
    """Losses of four "batches"; stops after two that are far worse than the incumbent's; some widths fail."""
    rng = np.random.default_rng([*job.widths, job.fidelity == "short"])
    if sum(job.widths) % 17 == 0:
        raise FloatingPointError("the loss is NaN")
    losses = (np.abs(np.array(job.widths) / 13 - 0.5).mean() + 0.01 * rng.random(4)).tolist()
    incumbent = getattr(job, "incumbent", None)
    abandoned = incumbent is not None and sum(losses[:2]) > 3 * sum(incumbent[:2])
    seen = losses[:2] if abandoned else losses
    return {"loss": sum(seen) / len(seen), "batch_losses": losses, "abandoned": abandoned, "seconds_total": 0.25}


class Evaluator:
    """Leaves a line in a side file before it measures, so that evaluations can be counted after any kill.

    Args:
        side: The file.
        pause_s: That each evaluation takes.
        crowd: From the 20th evaluation on each waits for so many processes to have begun one: a late start is no fault.
    """

    def __init__(self, side, pause_s, crowd=1):
        self.side, self.pause_s, self.crowd = side, pause_s, crowd

    def __call__(self, job):
        with open(self.side, "a") as file:
            file.write(f"{job.number} {os.getpid()}\n")
        time.sleep(self.pause_s)
        while self.crowd > 1:
            lines = Path(self.side).read_text().splitlines()
            if len(lines) < 20 or len({line.split()[-1] for line in lines}) >= self.crowd:
                break
            time.sleep(0.05)
        return measure(job)


class MakeEvaluator:
    """What is sent to the workers."""

    def __init__(self, side, pause_s, crowd=1):
        self.settings = side, pause_s, crowd

    def __call__(self, device):
        return Evaluator(*self.settings)


class MakeBreaking(MakeEvaluator):
    """The same; trial 5 breaks the device of its process once, and whoever starts after `starts` others is killed.

    The others then wait until so many processes as `wanted` have been started in all.
    """

    def __init__(self, side, pause_s, starts, wanted):
        super().__init__(side, pause_s)
        self.side, self.starts, self.wanted = side, starts, wanted

    def started(self):
        return len(Path(f"{self.side}.starts").read_text().split())

    def __call__(self, device):
        import signal

        with open(f"{self.side}.starts", "a") as file:
            file.write("started\n")
        if self.started() > self.starts:
            os.kill(os.getpid(), signal.SIGKILL)
        evaluate, mark, broken = super().__call__(device), Path(f"{self.side}.broken"), []

        def evaluate_there(job):
            metrics = evaluate(job)
            if job.number == 5 and not mark.exists():
                mark.touch()
                broken.append(job.number)
            if broken:
                raise illegal_access()
            while mark.exists() and self.started() < self.wanted:
                time.sleep(0.05)
            return metrics

        return evaluate_there


class Moody:
    """With a temper, decided by widths[0]: dies once, dies always, hangs, raises, exits, hangs in C; or is well."""

    def __init__(self, device, folder):
        self.device, self.folder = device, Path(folder)

    def __call__(self, job):
        import signal

        import torch

        mood = job.widths[0]
        with open(self.folder / "side.txt", "a") as file:
            file.write(f"{job.number} {os.getpid()} {torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}\n")
        first = not (mark := self.folder / f"seen-{job.number}").exists()
        mark.touch()
        if mood == 2 or (mood == 1 and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if mood == 3 and first:
            time.sleep(600)
        if mood == 4:
            raise MemoryError("cannot allocate 8 GB")
        if mood == 5 and first:
            os._exit(7)
        if mood == 6 and first:
            import ctypes

            ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter's lock: no thread and no signal handler runs
        return {"loss": 1.0 + mood, "device": self.device}


def illegal_access():
    """What torch raises for it, and for all that comes after it in the same process."""
    import torch

    kind = getattr(torch, "AcceleratorError", RuntimeError)
    return kind("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronous ...")


class MakeMoody:
    """What is sent to the workers."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, device):
        return Moody(device, self.folder)


class MakeShaky(MakeMoody):
    """On "meta" the first job breaks the device, and who starts there next is killed; others wait for `given-up`."""

    def __call__(self, device):
        import signal

        mark = self.folder / "started-meta"
        if device == "meta":
            with open(mark, "a") as file:
                file.write("started\n")
            if mark.read_text().count("started") > 1:
                os.kill(os.getpid(), signal.SIGKILL)

        def evaluate(job):
            if device == "meta":
                raise illegal_access()
            while not (self.folder / "given-up").exists():
                time.sleep(0.01)
            return {"loss": 1.0}

        return evaluate


def broken(device):
    """A recipe that fails."""
    raise OSError(f"no weights for {device}")


def deadly(device):
    """A recipe that kills its process."""
    os._exit(3)


class OpenSearch:
    """The same search for a coordinator on a Ray cluster; the pid of each is left in RUN/coordinator.txt."""

    def __init__(self, run, num_trials=NUM_TRIALS, limit_s=60.0):
        self.run, self.num_trials, self.limit_s = run, num_trials, limit_s

    def __call__(self):
        from autoprune.controller import SearchController
        from autoprune.ledger import Ledger
        from autoprune.schedule import Halving
        from autoprune.workers.cluster import Search

        with open(f"{self.run}/coordinator.txt", "a") as file:
            file.write(f"{os.getpid()}\n")
        ledger = Ledger.open(self.run, GROUPS, {"seed": 3})
        controller = SearchController(ledger, Evolution(3), Halving(self.num_trials, (FINALISTS,)))
        return Search(ledger, controller, lambda job: self.limit_s)


def main(run, num_workers, url=""):
    """Run or resume."""
    if url == "ray":
        return main_on_ray(run, num_workers)
    from autoprune.controller import SearchController
    from autoprune.ledger import Ledger
    from autoprune.schedule import Halving
    from autoprune.workers import run_here, run_processes

    with Ledger.open(run, GROUPS, {"seed": 3}, url=url) as ledger:
        controller = SearchController(ledger, Evolution(3), Halving(NUM_TRIALS, (FINALISTS,)))
        side = f"{run}/side.txt"
        if num_workers == 0:
            run_here(controller, Evaluator(side, 0.002))
        else:
            run_processes(controller, MakeEvaluator(side, 0.02), num_workers)
    print("done")


def main_on_ray(run, num_workers):
    """The same on a Ray cluster of this script's own."""
    from autoprune.workers.cluster import Share, connect, run_cluster

    Path(run).mkdir(exist_ok=True)
    with connect("local", num_cpus=num_workers, object_store_memory=100 * 2**20):
        make = MakeEvaluator(f"{run}/side.txt", 0.2)
        run_cluster(OpenSearch(run), make, Share(num_workers, 1), f"{run}/ray")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
