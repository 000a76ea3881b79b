"""Searches the per-layer widths of a trained PyTorch network for the most accuracy inside a budget.

Each verb of the command line is a function here, with the same name and settings; `help(autoprune.search)` lists them.

Example:
    result = autoprune.search(model, "cifar10:data", budget="macs<=50%")
    small = result.model  # a really smaller nn.Module
    again = autoprune.load(result.run_dir / "best", model=dense)  # from JSON and safetensors, no pickle
"""

from autoprune import interrupts as interrupts  # first: it answers Ctrl-C while the rest is imported

# isort: split

from autoprune import process as process  # second: it opens the standard streams that are closed

# isort: split

from autoprune import neighbours as neighbours  # third: a file of the user's may have the name of a package of ours

# isort: split

__version__ = "0.1.0"

from autoprune.config import RunConfig
from autoprune.exporting import load
from autoprune.report import RunProgress
from autoprune.runs import SearchResult
from autoprune.study import Candidate, Study
from autoprune.verbs import adapt, attach, compare, export, finetune, profile, report, resume, search, status

# `search` and `report` are the functions; the modules of these names are not for users.
__all__ = [
    "Candidate",
    "RunConfig",
    "RunProgress",
    "SearchResult",
    "Study",
    "__version__",
    "adapt",
    "attach",
    "compare",
    "export",
    "finetune",
    "load",
    "profile",
    "report",
    "resume",
    "search",
    "status",
]
