"""policies.md and policies.svg from the rows of the record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from protocol import spread
from record import Row

from autoprune.config import RunConfig
from autoprune.files import write_text

PEER_PREFIXES = ("tp-", "fastnas-")
CUT, DELIVERED = "test_epoch", "test_delivered"  # where the epoch began
QUARTER = 99 // 4  # evaluations
COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b", "#bcbd22")
DASHES = ("-", "--", "-", "-.", "-", "--", "-.", ":", "-", "--")
OTHER_SCORE = "-bn"  # ends the names of policies whose loss does not compare with the others'
HEAD = """# Every policy on the same work: ResNet-20 / CIFAR-10-JPEG

Made by `policies.py --tabulate` from `policies.csv`. Dense network: 88.16 % on test, 40.55 M MACs.
Machines: {machines}.

Seed s draws the search and the fine-tuning. *Untrained*: test top-1 with batch-norm re-estimated, mean over seeds. *One
epoch*: after the one-epoch protocol (protocol.py), mean ± standard deviation over seeds. *Fitted*: the same network,
its layers reconstructed by least squares, not trained. *As delivered*: after the same epoch from there, as
`autoprune.search` begins its fine-tune by default (it compares finalists from reconstructed layers, too; here the
winner is that of the first column); for peers it is their network with our reconstruction, where that was run.
*Validation loss*: the winner's, after a short fine-tune if there were finalists, else by proxy (not comparable with
each other). *Reaches random's*: evaluations until the best proxy loss is at or below that which random search with the
same seed ends with. *Wall s*, *compute s*: of the search. Peers shared their core with other work: read the second
(processor time).
Peers prune the inner width of each block only: their tracing cannot follow the padded residual stream.
"""
GPU = """## On a GPU

| | search, 400 proxy evaluations | one candidate, 200 steps | final 40 epochs |
|---|---|---|---|
| ResNet-56, 400 candidates (published, LcP: 7 minutes of search; goal: under 60 s) | {0} | {0} | {0} |
""".format("not measured")


def write(path: Path, rows: Sequence[Row], conclusion: str, titles: Mapping[str, str]) -> None:
    """Write the table, and beside it the plot."""
    write_text(path, table(rows, conclusion, titles))
    plot(path.with_suffix(".svg"), rows, titles)


def table(rows: Sequence[Row], conclusion: str, titles: Mapping[str, str]) -> str:
    """The whole record as Markdown."""
    lines = [HEAD.format(machines="; ".join(dict.fromkeys(r.machine for r in rows if r.machine)) or "none yet")]
    lines += ["![Best proxy loss against evaluations](policies.svg)", ""]
    lines += ["## What a fair reader concludes", "", conclusion.strip(), "", "## The bars", "", *bars(rows, titles), ""]
    for budget in budgets(rows):
        lines += [f"## macs<={budget}", "", *results([r for r in rows if r.budget == budget], titles), ""]
    return "\n".join(lines) + "\n" + GPU


def budgets(rows: Sequence[Row]) -> list[str]:
    """The budgets there are, the mildest first."""
    return sorted({r.budget for r in rows}, key=lambda b: -float(b.rstrip("%")))


def of(rows: Sequence[Row], policy: str, budget: str) -> list[Row]:
    """The runs of a policy at a budget that have a network, by seed."""
    found = [r for r in rows if (r.policy, r.budget) == (policy, budget) and not math.isnan(r.test_epoch)]
    return sorted(found, key=lambda r: r.seed)


def results(rows: Sequence[Row], titles: Mapping[str, str]) -> list[str]:
    """The table of one budget, the best first."""
    lines = [
        "| | evaluations | MACs kept | untrained | one epoch | n | each run | fitted | as delivered | each run "
        "| validation loss | reaches random's | wall s | compute s |",
        "|" + "---|" * 14,
    ]
    policies = {r.policy: of(rows, r.policy, r.budget) for r in rows}
    order = sorted((p for p in policies if policies[p]), key=lambda p: -_mean(r.test_epoch for r in policies[p]))
    for policy in order:
        found = policies[policy]
        reached = [reaches(r, next((o for o in rows if (o.policy, o.seed) == ("random", r.seed)), None)) for r in found]
        lines.append(
            f"| {_title(policy, titles)} | {max(r.evaluations for r in found)} "
            f"| {', '.join(dict.fromkeys(f'{100 * r.macs:.1f} %' for r in found))} "
            f"| {_mean(r.test_bn for r in found):.2f} | {spread([r.test_epoch for r in found])} | {len(found)} "
            f"| {', '.join(f'{r.test_epoch:.2f}' for r in found)} | {_number(_mean(r.test_fitted for r in found), 2)} "
            f"| {_top1(found, DELIVERED)} | {', '.join(f'{v:.2f}' for v in _known(found, DELIVERED))} "
            f"| {', '.join(_number(r.val_loss, 3) for r in found)} | {', '.join(reached) if any(reached) else ''} "
            f"| {_number(_mean(r.wall_s for r in found), 0)} | {_number(_mean(r.compute_s for r in found), 0)} |"
        )
    for policy in policies:
        errors = [r.error for r in rows if r.policy == policy and r.error]
        if errors and not policies[policy]:
            lines.append(f"| {_title(policy, titles)} |" + " |" * 3 + f" {errors[0]} |" + " |" * 9)
    return lines


def reaches(row: Row, random: Row | None) -> str:
    """After how many evaluations a run is at random search's final proxy loss; empty if it cannot be said."""
    if random is None or not random.points or len(row.points) < 1 or row.policy.endswith(OTHER_SCORE):
        return ""
    target = random.points[-1][1]
    return next((str(n) for n, loss in row.points if loss <= target), "never")


def bars(rows: Sequence[Row], titles: Mapping[str, str]) -> list[str]:
    """What the default strategy has to show, and whether it does."""
    default = RunConfig().strategy
    lines = [
        f"The default strategy, `{default}`, against the best peer and against random search: test top-1 after one "
        "epoch. The bar holds if the difference of the means is larger than the larger of the two standard deviations "
        "over seeds; for the speed, if the mean of the seeds' best proxy losses is at random search's final mean "
        f"within {QUARTER} evaluations (in brackets each seed against random's run of the same seed; the first five "
        "evaluations of the default are closed forms, which random does without). As delivered, a peer counts as it "
        "delivers itself, weights as cut, or with our reconstruction where that was run and is better: there the "
        "difference is one of products, and random search's column tells what the search is worth.",
        "",
        "| from | | default | best peer | | random | | reaches random's final loss after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for start, words in ((CUT, "weights as cut"), (DELIVERED, "as delivered")):
        lines += [f"| {words} {_bar(rows, titles, default, budget, start)}" for budget in budgets(rows)]
    return lines


def _bar(rows: Sequence[Row], titles: Mapping[str, str], default: str, budget: str, start: str) -> str:
    """One row of the bars."""
    ours, random = of(rows, default, budget), of(rows, "random", budget)
    peers = {r.policy: of(rows, r.policy, budget) for r in rows if r.policy.startswith(PEER_PREFIXES)}
    ways = {(p, way) for p, found in peers.items() if found and _inside(found) for way in {CUT, start}}
    rivals = {(p, way): values for p, way in sorted(ways) if (values := _known(peers[p], way))}
    best = max(rivals, key=lambda p: statistics.mean(rivals[p]), default=("", CUT))
    steps = [reaches(r, next((o for o in random if o.seed == r.seed), None)) for r in ours]
    theirs = mean_curve(random)
    after = next((n for n, loss in mean_curve(ours) if theirs and loss <= theirs[-1][1]), None)
    fast = after is not None and after <= QUARTER if theirs and all(steps) and steps else None
    speed = _HOLDS[None] if fast is None else f"{after or 'never'} ({', '.join(steps)}): {_HOLDS[fast]}"
    peer = rivals.get(best, [])
    return (
        f"| {budget} | {_top1(ours, start)} | {_title(best[0], titles)} {_spread(peer)} "
        f"| {verdict(_known(ours, start), peer)} "
        f"| {_top1(random, start)} | {verdict(_known(ours, start), _known(random, start))} | {speed} |"
    )


def verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Whether our mean is above theirs by more than the spread between seeds."""
    if min(len(ours), len(theirs)) < 2:
        return _HOLDS[None]
    gap = statistics.mean(ours) - statistics.mean(theirs)
    noise = max(statistics.stdev(ours), statistics.stdev(theirs))
    return f"{gap:+.2f}, spread {noise:.2f}: {_HOLDS[gap > noise]}"


def mean_curve(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """The best proxy loss after n evaluations, mean over the runs (from where all of them have one)."""
    curves = [dict(r.points) for r in rows if r.points]
    if not curves:
        return []
    found = []
    for n in range(max(min(c) for c in curves), min(max(c) for c in curves) + 1):
        found.append((n, statistics.mean(min(loss for m, loss in c.items() if m <= n) for c in curves)))
    return found


def plot(path: Path, rows: Sequence[Row], titles: Mapping[str, str]) -> None:
    """Best proxy loss against evaluations, a panel per budget; at most ten policies, all scored the same way."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print(f"{path.name} not drawn: pip install 'autoprune[bench]'")
        return
    matplotlib.rcParams["svg.hashsalt"] = "autoprune"  # the same rows give the same file
    panels = budgets(rows)
    alike = [p for p in titles if not p.endswith(OTHER_SCORE)]
    lines = {(p, b): mean_curve(of(rows, p, b)) for p in alike for b in panels}
    shown = [p for p in dict.fromkeys((RunConfig().strategy, "random", *alike)) if any(_long(lines, p, panels))]
    if not shown:
        return
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.9), squeeze=False, layout="constrained"
    )
    for axis, budget in zip(axes[0], panels, strict=True):
        for policy, colour, dash in zip(shown, COLOURS, DASHES, strict=False):
            if curve := lines.get((policy, budget)):
                x, y = zip(*curve, strict=True)
                axis.step(x, y, dash, where="post", color=colour, label=_title(policy, titles), lw=1.6)
        drawn = [curve for (_, b), curve in lines.items() if b == budget and curve]
        early = [loss for curve in drawn for n, loss in curve if n >= 4]
        if early:
            low, high = min(early), max(early)
            axis.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        counts = sorted({len(of(rows, p, budget)) for p in shown if lines.get((p, budget))})
        seeds = "" if not counts else f", mean of {'-'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seed(s)"
        axis.set(title=f"macs ≤ {budget}{seeds}", xlabel="evaluations", ylabel="best proxy loss (validation)")
        axis.grid(alpha=0.3)
    handles = {label: h for a in axes[0] for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=130)
    pyplot.close(figure)


_HOLDS = {True: "holds", False: "does not hold", None: "open"}


def _long(lines: Mapping[tuple[str, str], list[tuple[int, float]]], policy: str, panels: Sequence[str]) -> list[bool]:
    return [len(lines.get((policy, b), [])) > 1 for b in panels]


def _inside(found: Sequence[Row]) -> bool:
    """Whether the networks keep to the budget: a peer that stops above it is no rival at it."""
    return all(r.macs <= float(r.budget.rstrip("%")) / 100 + 1e-9 for r in found)


def _title(policy: str, titles: Mapping[str, str]) -> str:
    return titles.get(policy, policy)


def _mean(values: object) -> float:
    known = [v for v in values if not math.isnan(v)]  # type: ignore[attr-defined]
    return statistics.mean(known) if known else math.nan


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _known(found: Sequence[Row], start: str) -> list[float]:
    return [value for r in found if not math.isnan(value := getattr(r, start))]


def _top1(found: Sequence[Row], start: str) -> str:
    return _spread(_known(found, start))


def _spread(values: Sequence[float]) -> str:
    return spread(values) if values else "-"
