"""Searches the per-layer widths of a trained PyTorch network for the most accuracy inside a budget.

Example:
    result = autoprune.search(model, "cifar10:data", budget="macs<=50%")
    small = result.model  # a really smaller nn.Module
    again = autoprune.load(result.run_dir / "best", model=dense)  # from JSON and safetensors, no pickle
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.export import export as export
    from autoprune.export import load as load
    from autoprune.search import SearchResult as SearchResult
    from autoprune.search import finetune as finetune
    from autoprune.search import profile as profile
    from autoprune.search import resume as resume
    from autoprune.search import search as search

__version__ = "0.1.0"

# Imported when first used: `autoprune --help` and the worker processes need not wait for all of it.
_HOME = {
    "export": "autoprune.export",
    "load": "autoprune.export",
    "SearchResult": "autoprune.search",
    "finetune": "autoprune.search",
    "profile": "autoprune.search",
    "resume": "autoprune.search",
    "search": "autoprune.search",
}
__all__ = ["SearchResult", "export", "finetune", "load", "profile", "resume", "search"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autoprune' has no attribute '{name}'; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)
