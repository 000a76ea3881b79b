"""Where candidates are evaluated: every worker asks, evaluates, tells, until there is nothing left to ask for."""

from autoprune.workers.here import run_here as run_here
from autoprune.workers.pickle_file import pickled as pickled
from autoprune.workers.processes import run_processes as run_processes
from autoprune.workers.slots import Slot as Slot
from autoprune.workers.slots import assign_slots as assign_slots
