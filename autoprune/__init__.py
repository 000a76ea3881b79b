"""Searches the per-layer widths of a trained PyTorch network for the most accuracy inside a budget.

Example:
    result = autoprune.search(model, "cifar10:data", budget="macs<=50%")
    small = result.model  # a really smaller nn.Module
    again = autoprune.load(result.run_dir / "best", model=dense)  # from JSON and safetensors, no pickle
"""

from autoprune import interrupts as interrupts  # first: it answers Ctrl-C while the rest is imported

# isort: split

from autoprune import process as process  # second: it opens the standard streams that are closed

# isort: split

__version__ = "0.1.0"

from autoprune.config import RunConfig as RunConfig
from autoprune.export import load as load
from autoprune.runs import SearchResult as SearchResult
from autoprune.runs import adapt as adapt
from autoprune.runs import attach as attach
from autoprune.runs import export_run as export_run
from autoprune.runs import finetune as finetune
from autoprune.search import resume as resume
from autoprune.search import search as search  # the function: the module of this name is not for users
