"""What other processes do in the tests of a GPU; a module that they can import."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch
from small_images import SOME, data, evaluator

from autoprune.compute import same_bits
from autoprune.failures import device_broken
from autoprune.training import TrainingSettings, finetune
from autoprune.workers.child import _take_share
from search_spaces.models import resnet20

BLOCK = 2**26  # bytes


def break_context(device):
    """An illegal access: nothing works in this process afterwards."""
    torch.zeros(2, device=device)[torch.tensor([2**20], device=device)].sum().item()


def tell_a_broken_context(device, pipe):
    """Send whether it was recognised."""
    try:
        break_context(device)
        pipe.send("nothing happened")
    except RuntimeError as error:
        pipe.send(device_broken(error))
    pipe.close()
    os._exit(0)


def fill(slot, pipe):
    """Take all memory that a worker of the slot may have; send how many bytes."""
    _take_share(slot)
    blocks = []
    try:
        while True:
            blocks.append(torch.empty(BLOCK, dtype=torch.uint8, device=slot.device))
    except torch.OutOfMemoryError:
        pipe.send(len(blocks) * BLOCK)
    time.sleep(10)


class MakeUnlucky:
    """Evaluators of which one is killed in the middle of its job, and one breaks its context; each once.

    Args:
        folder: Where they note that it has happened.
        harm: What breaks a context: a function of the device.
    """

    def __init__(self, folder, harm=break_context):
        self.folder, self.harm = Path(folder), harm

    def __call__(self, device):
        evaluate, _ = evaluator(resnet20, data(), device, replace(SOME, abandon=False))

        def run(job):
            seen = self.folder / f"seen-{job.number}"
            if job.number < 2 and not seen.exists():
                seen.touch()
                if job.number:
                    self.harm(device)
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            return evaluate(job.widths, job.fidelity)

        return run


class Jobs:
    """Hands out jobs until all have an answer, as a `SearchController` does; one that is lost comes again."""

    poll_s, listener = 0.1, None

    def __init__(self, jobs):
        self.all = list(jobs)
        self.left, self.results, self.at_work, self.losses = [*self.all], {}, {}, []

    def ask(self, worker):
        if worker in self.at_work:
            return self.at_work[worker]
        if self.left:
            self.at_work[worker] = self.left.pop(0)
            return self.at_work[worker]
        return None if len(self.results) == len(self.all) else "wait"

    def tell(self, worker, number, result):
        assert self.at_work.pop(worker).number == number
        self.results[number] = result

    def lost(self, worker, how):
        self.losses.append(how)
        self.left.append(self.at_work.pop(worker))

    def release(self, worker):
        self.at_work.pop(worker, None)


def train_deterministically(device, pipe):
    """Send the weights after some steps of a training that is to give the same bits each time."""
    same_bits(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = resnet20()
    finetune(net, data(), TrainingSettings(device=device, batch_size=32), steps=8)
    pipe.send([tensor.cpu().numpy().tobytes() for tensor in net.state_dict().values()])
    pipe.close()
