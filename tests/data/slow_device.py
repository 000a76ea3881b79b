"""A made-up device for latency budgets, deterministic, and slower with small networks than its predictor believes.

What it takes is a sum over the layers in which output channels are computed in blocks of 8. The predictor (`study`)
knows that exactly. The device also takes an overhead that the predictor does not know: `OVERHEAD` of what the dense
network takes, whatever the widths.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np

from objectives.latency import Backend, fit, needed
from objectives.latency.sampling import sample
from objectives.latency.sites import Channels, sites_of

METRIC = "latency@slow_device:Slow,batch=1,threads=1"
BUDGET = "latency<=60%@slow_device:Slow"
OVERHEAD = float(os.environ.get("SLOW_DEVICE_OVERHEAD", "0.3"))
KILL_AT = int(os.environ.get("SLOW_DEVICE_KILL_AT", "0"))  # the measurement in which this process is killed


def believed(sites, num_groups, widths):
    """Milliseconds that the predictor knows of."""
    i, o = Channels(sites, num_groups)(widths)
    return (0.001 + 100 * i * np.ceil(o / 8) * 8 * np.array([s.work for s in sites])).sum(axis=1)


class Slow(Backend):
    """The device. Builds nothing: only the widths matter."""

    name = "slow"
    measured = 0
    asked: ClassVar[list[bool]] = []  # each time that candidates were to be built: as they would be delivered?

    def load(self, model, example):
        return lambda: 1.0

    def candidates(self, model, space, example, *, delivered=False):
        type(self).asked.append(delivered)
        sites, groups = sites_of(model, space, example), len(space.groups)
        dense = float(believed(sites, groups, np.array([space.full]))[0])

        def build(widths):
            if widths != space.full:
                type(self).measured += 1
                if type(self).measured == KILL_AT:
                    os.kill(os.getpid(), signal.SIGKILL)
            ms = float(believed(sites, groups, np.array([widths]))[0])
            return lambda: 2 * ((1 - OVERHEAD) * ms + OVERHEAD * dense)  # a machine half as quick as it was

        return build


def study(backend, name, model, space, example, say=None, **_):
    """The predictor, from what it believes."""
    if say:
        say(f"measuring networks for the predictor of {name}")
    sites = sites_of(model, space, example)
    widths = np.array([sample(space, n) for n in range(96)])
    ms = believed(sites, len(space.groups), widths)
    dense = float(believed(sites, len(space.groups), np.array([space.full]))[0])
    return fit(name, sites, widths, ms, dense, {"device": "made up"})


def install():
    """Have searches of this process know the device."""
    needed.study = study


def run(verb, path, settings, kill_at=KILL_AT):
    """A search in a process of its own, which may be killed; `settings` are JSON."""
    global KILL_AT
    from autoprune import resume, search

    KILL_AT = int(kill_at)
    install()
    search(**json.loads(settings), name=path) if verb == "search" else resume(Path(path))


if __name__ == "__main__":
    run(*sys.argv[1:])
