"""The toy search, as one of several controllers on a database server. Also a script, to be killed.

python joint.py RUN NUM_WORKERS URL HOW    # HOW: "first" begins or resumes the study, "join" joins it
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import toys

PAUSE_S = 0.01  # of an evaluation


class Remembers(toys.Evolution):
    """Keeps the numbers of the trials that it was told, in order."""

    def __init__(self):
        super().__init__(3)
        self.told = []

    def tell(self, trial):
        self.told.append(trial.number)
        super().tell(trial)


def control(run, url, *, join=False, study="joint", num_trials=toys.NUM_TRIALS):
    """A controller with its ledger open."""
    from autoprune.controller import SearchController
    from autoprune.ledger import Ledger
    from autoprune.schedule import Halving

    ledger = Ledger.open(run, toys.GROUPS, {"seed": 3}, url=url, study=study, join=join)
    return SearchController(ledger, Remembers(), Halving(num_trials, (toys.FINALISTS,)))


def main(run, num_workers, url, how, study="joint"):
    """Search until it is over; all controllers' evaluations leave their lines in one file beside the runs."""
    from autoprune.workers import run_here, run_processes

    c = control(run, url, join=how == "join", study=study)
    with c.ledger:
        (Path(run) / "open").touch()
        side = Path(run).parent / "side.txt"
        if num_workers == 0:
            run_here(c, toys.Evaluator(side, PAUSE_S))
        else:
            run_processes(c, toys.MakeEvaluator(side, PAUSE_S), num_workers)
        said = {"told": c._strategy.told, "population": [t.number for t in c._strategy.population]}
        (Path(run) / "said.json").write_text(json.dumps(said | {"leads": c.ledger.lead()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
