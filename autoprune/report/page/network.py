"""What became of the network: how wide every group still is, and where its costs are, layer by layer."""

from __future__ import annotations

from autoprune.report.page.bars import Bar, bars
from autoprune.report.page.drawing import Chart
from autoprune.report.page.facts import Facts
from autoprune.report.page.prices import cost_label, milliseconds, slug
from autoprune.report.tables import counted, number, percent
from objectives import is_latency


def widths_chart(facts: Facts) -> Chart | None:
    """How much of every group is kept; None before there is a network."""
    if not facts.widths or not facts.space.groups:
        return None
    rows = [
        Bar(g.name, 100.0, 100 * width / g.size, f"{width} of {g.counted(g.size)}", f"{width}/{g.size}")
        for g, width in zip(facts.space.groups, facts.widths, strict=True)
    ]
    caption = (
        f"Channels kept in each of {counted(len(rows), 'group')} of layers that shrink together, "
        f"{percent(sum(facts.widths), sum(facts.space.full))} in all."
    )
    if frozen := facts.space.frozen:
        caption += f" {counted(len(frozen), 'more group')} cannot be pruned."
    head = ("group", "channels kept", "share")
    return bars("widths", "Widths", caption, rows, "channels kept, %", head, is_sum=False)


def cost_chart(facts: Facts, name: str) -> Chart | None:
    """Where a cost arises, layer by layer, before and after; None before there is a network."""
    if not facts.widths:
        return None
    cost = facts.costs[name]
    write = milliseconds if is_latency(name) else number
    dense, pruned = cost.parts(facts.space.full), cost.parts(facts.widths)
    rows = [
        Bar(layer, before, pruned[layer], f"{write(before)} to {write(pruned[layer])}", percent(pruned[layer], before))
        for layer, before in dense.items()
        if before
    ]
    if not rows:
        return None
    before, after = sum(dense.values()), sum(pruned.values())
    caption = f"{write(before)} {cost.unit} before, {write(after)} after: {percent(after, before)} kept."
    if after < before:
        most = max(rows, key=lambda bar: bar.before - bar.after)
        caption += f" {most.name} gives most, {percent(most.before - most.after, before - after)} of what is saved."
    title = f"Where the {cost_label(name)} are"
    if is_latency(name):
        title = f"Where the milliseconds go {cost_label(name).removeprefix('latency ')}"
        caption += " As the predictor shares them out: only whole networks were measured."
    head = ("layer", f"{cost.unit}, dense to pruned", "kept")
    return bars(f"cost-{slug(name)}", title, caption, rows, cost.unit, head)
