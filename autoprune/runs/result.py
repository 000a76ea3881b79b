"""`SearchResult`: what a search gives back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoprune.config import RunConfig
from autoprune.data import ImageData
from autoprune.exporting import check_target, export_again, load, read_architecture, rebuild
from autoprune.problem import Trial
from autoprune.reference import fingerprint
from autoprune.report.result import html_of, text_of
from autoprune.runs.attaching import attach
from autoprune.runs.beside import keep_attached
from autoprune.runs.directory import RunDirectory
from autoprune.runs.prepare import load_task
from autoprune.runs.trained import dense_network, fitted, remeasured
from autoprune.tasks import Task, as_task
from search_spaces import SearchSpace, Widths


@dataclass(frozen=True, eq=False)
class Origin:
    """What a result was made from, so that its network can be checked, measured and exported wherever the run is.

    Attributes:
        config: The settings of the run.
        architecture: architecture.json of what was delivered.
        weights: Fingerprint of what was delivered.
        dense: The dense network, if the search was given an nn.Module object.
        data: The data, if the search was given an object.
    """

    config: RunConfig
    architecture: Mapping[str, Any]
    weights: str
    dense: nn.Module | None = None
    data: Task | ImageData | None = None

    @classmethod
    def of(cls, run: RunDirectory, network: nn.Module, dense: nn.Module | None = None, data: Any = None) -> Origin:
        """Of what a run has delivered just now."""
        return cls(run.config, read_architecture(run.best), fingerprint(network), dense, data)

    def build(self) -> nn.Module:
        """The dense network, for its architecture."""
        return dense_network(self.config, self.dense, "autoprune.attach")


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """The winner of a search.

    Attributes:
        widths: Kept units per group, in the order of `space.groups`; by name: `widths_by_group`.
        trial: The trial that won.
        run_dir: The run's directory; `best/` in it is the export.
        space: What could be pruned.
        model: The pruned network, fine-tuned unless that did harm, in eval mode.
        example: The example input.
        costs: Per cost name, its "dense" and "pruned" value; a latency in milliseconds as measured where it was, i.e.
            where `metrics` has it, too (its "share" is what the budget is held to); else as predicted.
        metrics: "dense_val", "dense_test", "pruned_val", "pruned_test": loss and top-1 of each; "before_finetune_val",
            "finalist_val", "after_finetune_val": of the pruned network before its fine-tune, with the weights that won
            as a finalist, and after the fine-tune, and which one is "delivered";
            for each budget on a latency, under its metric ("latency@onnxruntime,batch=1,threads=1"), what was predicted
            and measured: "predicted_ms", "predicted_share", "dense_ms", "pruned_ms", their spreads, "share",
            "share_error", "passes".
        origin: What it was made from.
    """

    widths: Widths
    trial: Trial
    run_dir: Path
    space: SearchSpace
    model: nn.Module
    example: Any
    costs: dict[str, dict[str, float]]
    metrics: dict[str, dict[str, Any]]
    origin: Origin

    @property
    def widths_by_group(self) -> dict[str, int]:
        """Kept units per group, by the group's name, as `autoprune.profile` shows it; 0: the branch is gone."""
        return {group.name: width for group, width in zip(self.space.groups, self.widths, strict=True)}

    def __repr__(self) -> str:
        """Dense against pruned, the budgets, and where it lies."""
        return text_of(self)

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        return html_of(self)

    def export(self, directory: str | Path, *, onnx: bool = False, pt2: bool = False) -> Path:
        """Export the network as it is now, weights and buffers, to another place (see `autoprune.exporting.export`).

        If it has been trained since it was delivered it is measured again where the data can be loaded; else the export
        says nothing of its accuracy, and a warning says why. To have the run deliver it: `attach`.

        Args:
            directory: Where.
            onnx: Also write model.onnx.
            pt2: Also write model.pt2.

        Raises:
            ValueError: If the network no longer has the architecture of the result, a weight is not a finite number, or
                as `autoprune.exporting.export`.
        """
        directory, origin = Path(directory), self.origin
        check_target(directory)
        architecture: Mapping[str, Any] = origin.architecture
        skeleton = rebuild(architecture, origin.build(), f"result of {self.run_dir}")
        network = fitted(skeleton, self.model, "result.model", self.example)
        if fingerprint(network) != origin.weights:
            if directory.resolve() == (self.run_dir / "best").resolve():
                raise ValueError(f"'{directory}': is what the run delivers, and result.model was trained since; "
                                 "result.attach() delivers it, measured, and keeps the old one")  # fmt: skip
            architecture = remeasured(architecture, network, self._task(), origin.config, "result.model")
        keep_attached(directory, warnings.warn)
        return export_again(directory, network, architecture, self.example, onnx=onnx, pt2=pt2)

    def attach(
        self, model: nn.Module | Mapping[str, Tensor] | str | Path | None = None, **settings: Any
    ) -> SearchResult:
        """Have the run deliver this network as you have trained it (see `autoprune.attach`).

        Args:
            model: The trained network, its weights or a file of them; default `result.model` as it is now.
            **settings: device, onnx, pt2, progress, trust.

        Returns:
            The result with that network and what was measured of it.

        Raises:
            ValueError: As `autoprune.attach`.
        """
        origin = self.origin
        best = attach(self.run_dir, self.model if model is None else model, origin.dense, origin.data, **settings)
        network, architecture = load(best, origin.build()), read_architecture(best)
        origin = replace(origin, architecture=architecture, weights=fingerprint(network))
        return replace(self, model=network, metrics=architecture["metrics"], origin=origin)

    def _task(self) -> Task | None:
        """What the run was measured on; None with a warning where it cannot be had."""
        origin = self.origin
        if origin.data is not None:
            return as_task(origin.data)
        try:
            return load_task(origin.config)
        except ValueError as error:
            warnings.warn(f"the trained network was not measured: {error}; its export says nothing of its accuracy",
                          stacklevel=3)  # fmt: skip
            return None
