"""`SearchResult`: what a search gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.export import copy_export
from autoprune.problem import Trial
from search_spaces import SearchSpace, Widths


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The winner of a search.

    Attributes:
        widths: Kept units per group.
        trial: The trial that won.
        run_dir: The run's directory; `best/` in it is the export.
        space: What could be pruned.
        model: The pruned network, fine-tuned unless that did harm, in eval mode.
        example: The example input.
        costs: Per cost name, its "dense" and "pruned" value.
        metrics: "dense_val", "dense_test", "pruned_val", "pruned_test": loss and top-1 of each; "before_finetune_val",
            "after_finetune_val": of the pruned network before and after its fine-tune, and which one is "delivered";
            for each budget on a latency, under its metric ("latency@onnxruntime,batch=1,threads=1"), what was predicted
            and measured: "predicted_ms", "predicted_share", "dense_ms", "pruned_ms", their spreads, "share",
            "share_error", "passes".
    """

    widths: Widths
    trial: Trial
    run_dir: Path
    space: SearchSpace
    model: nn.Module
    example: Any
    costs: dict[str, dict[str, float]]
    metrics: dict[str, dict[str, float]]

    def export(
        self, directory: str | Path, *, model: nn.Module | None = None, onnx: bool = False, pt2: bool = False
    ) -> Path:
        """Export the winner once more, to another place or with other formats (see `autoprune.export.export`).

        Args:
            directory: Where.
            model: The dense network, if the search was given an nn.Module object.
            onnx: Also write model.onnx.
            pt2: Also write model.pt2.
        """
        return copy_export(self.run_dir / "best", Path(directory), model, self.example, onnx=onnx, pt2=pt2)
