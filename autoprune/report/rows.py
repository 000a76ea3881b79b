"""Dense against pruned, row by row; what is said of a delivered network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autoprune.labels import Labels
from autoprune.report.tables import apart, number, percent
from objectives import is_latency


def rows_of(metrics: Any, costs: Any, labels: Labels = Labels()) -> list[tuple[str, str, str, str]]:  # noqa: B008
    """Scores and costs for `comparison_table`; of images that are classified, unless labels say otherwise."""
    rows, score = [], labels.headline
    for split, where in (("val", f"validation {labels.samples}"), ("test", f"held-out test {labels.samples}")):
        dense, pruned = (metrics.get(f"{which}_{split}", {}).get(score.name) for which in ("dense", "pruned"))
        if dense is not None and pruned is not None:
            rows.append((f"{score.label}, {where}", f"{dense:.4f}", f"{pruned:.4f}", score.change(dense, pruned)))
        if (old := metrics.get(f"previous_{split}", {}).get(score.name)) is not None:
            rows.append((f"{score.label} of what was delivered before", "", f"{old:.4f}", f"on the {where}"))
        if split == "val":
            rows += recovery_rows(metrics, labels)
    measured = {name: metrics[name] for name in costs if name in metrics}
    return rows + cost_rows({name: cost for name, cost in costs.items() if name not in measured}) + timed_rows(measured)


def attached_words(architecture: Mapping[str, Any]) -> str:
    """Who trained an exported network, if it was not the run: from where and when, and where the one before it is."""
    said = architecture.get("provenance", {}).get("attached")
    if not said:
        return ""
    when = said["when"][:16].replace("T", " ")
    before = f"; the one before it is kept in {said['replaced']}" if "replaced" in said else ""
    return f"trained elsewhere, attached from {said['from']} ({when}){before}"


def cost_rows(costs: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str, str]]:
    """A row per cost for `comparison_table`; a latency among them was not measured."""
    return [
        (
            name,
            number(cost["dense"]),
            number(cost["pruned"]),
            percent(cost["pruned"], cost["dense"]) + ", predicted" * is_latency(name),
        )
        for name, cost in costs.items()
    ]


def recovery_rows(
    metrics: Mapping[str, Mapping[str, Any]],
    labels: Labels = Labels(),  # noqa: B008
) -> list[tuple[str, str, str, str]]:
    """Rows for `comparison_table` of what else could have been delivered, on the validation samples (see `recover`)."""
    before, finalist, after = (metrics.get(f"{name}_val") for name in ("before_finetune", "finalist", "after_finetune"))
    said, score = before or finalist or {}, labels.headline
    known = {"loss", "delivered", *(s.name for s in labels.scores)}
    own = next((name for name in said if name not in known), "loss")  # what was minimised
    word, rows = own.rpartition(":")[2], []
    if before:
        was, is_now = apart(before.get(own, math.nan), (after or {}).get(own, math.nan))
        text = f"{word} {was} before" + (f", {is_now} after" if after else "")
        rows.append((f"{score.label} before the fine-tune", before, text))
    if finalist:
        rows.append((f"{score.label} as a finalist", finalist, f"{word} {finalist.get(own, math.nan):.4g}"))
    return [
        (label, "", f"{found.get(score.name, math.nan):.4f}", ("delivered: " if found["delivered"] else "") + text)
        for label, found, text in rows
    ]


def timed_rows(measured: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str, str]]:
    """A row per measured latency for `comparison_table`: dense and pruned side by side, and what was predicted."""
    return [
        (
            name,
            f"{said['dense_ms']:.3g} ± {said['dense_spread_ms']:.1g} ms",
            f"{said['pruned_ms']:.3g} ± {said['pruned_spread_ms']:.1g} ms",
            f"{100 * said['share']:.1f} ± {100 * said['share_error']:.1f} %, "
            f"predicted {percent(said['predicted_share'], 1)}",
        )
        for name, said in measured.items()
    ]
