"""Concepts: from scores to the winner, and what the strategies of policies.md end at."""

from drawing import Drawing
from recorded import number, table

SIZE = (760, 400)
TITLE = "Top: scores, closed forms, strategy, finalists, winner. Bottom: what each strategy ends at."
BOXES = (("criterion", "scores channels"), ("closed forms", "first candidates"), ("strategy", "ask, tell"),
         ("finalists", "short trainings"), ("winner", "fine-tune, export"))  # fmt: skip
OURS = ("lcp", "combined", "layer_compensation", "annealing", "tpe", "gp", "reinforce", "amc", "evolution", "netadapt",
        "knapsack", "random", "uniform")  # fmt: skip


def draw(d: Drawing) -> None:
    """Draw it."""
    d.text(20, 26, "One search", bold=True)
    for n, (name, words) in enumerate(BOXES):
        x = 20 + n * 148
        d.rect(x, 44, 120, 54, "panel", "one")
        d.text(x + 60, 68, name, anchor="middle", bold=True)
        d.text(x + 60, 86, words, "soft", 11.5, "middle")
        if n:
            d.line([(x - 28, 71), (x, 71)], arrow=True)
    d.line([(376, 98), (376, 116), (346, 116), (346, 98)], arrow=True)
    d.text(386, 118, "again for every candidate: widths -> price -> loss", "soft", 11.5)
    d.text(20, 156, "ResNet-20 at 15 % of the multiply-adds: test top-1 in %, one epoch from weights as cut", bold=True)
    rows = {row[""]: row for row in table("policies.md", "macs<=15%")}
    for n, name in enumerate(OURS):
        y, top1 = 172 + 17 * n, number(rows[name]["one epoch"])
        d.text(150, y + 11, name, size=12, anchor="end")
        d.rect(160, y, (top1 - 50) * 22, 13, "one" if name == "combined" else "three", r=2)
        d.text(166 + (top1 - 50) * 22, y + 11, rows[name]["one epoch"], "soft", 11)
