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

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from autoprune.config import RunConfig
    from autoprune.exporting import load
    from autoprune.report import RunProgress
    from autoprune.runs import SearchResult
    from autoprune.study import Candidate, Study
    from autoprune.tasks import Task
    from autoprune.verbs import attach, compare, export, finetune, profile, report, resume, search, status, train
    from search_spaces import kept_inputs, select_inputs

__all__ = [
    "Candidate",
    "RunConfig",
    "RunProgress",
    "SearchResult",
    "Study",
    "Task",
    "__version__",
    "attach",
    "compare",
    "export",
    "finetune",
    "kept_inputs",
    "load",
    "profile",
    "report",
    "resume",
    "search",
    "select_inputs",
    "status",
    "train",
]

_HOMES = {  # of all else: autoprune.verbs
    "Candidate": "autoprune.study",
    "RunConfig": "autoprune.config",
    "RunProgress": "autoprune.report",
    "SearchResult": "autoprune.runs",
    "Study": "autoprune.study",
    "Task": "autoprune.tasks",
    "kept_inputs": "search_spaces",
    "load": "autoprune.exporting",
    "select_inputs": "search_spaces",
}


class _Package(ModuleType):
    """This package as a module that imports what it offers when that is first asked for: PyTorch takes seconds.

    `search` and `report` are the functions; the modules of these names are not for users.
    """

    def __getattr__(self, name: str) -> Any:
        if name in __all__:
            value = getattr(importlib.import_module(_HOMES.get(name, "autoprune.verbs")), name)
            super().__setattr__(name, value)
            return value
        if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
            return importlib.import_module(f"{__name__}.{name}")  # autoprune.data, autoprune.criteria ...
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):  # the import of a module would put it here
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
