"""Every setting: `autoprune.config.SETTINGS`, the one place where flags, TOML keys, keywords and checks come from."""

import math
from pathlib import Path

from autoprune.config import SETTINGS, Setting
from autoprune.settings.setting import MOST
from generate.tables import code, plain

HEAD = """# Every setting

Made from `autoprune/config` when these pages are built: the same text as `autoprune search --help-all`.
A setting is a flag (`--bn-samples`), a key of a TOML file (`bn_samples = 500`, with `--config FILE`) and a
keyword in Python (`bn_samples=500`); flags and keywords win over the file. What a value is measured in stands in
capitals behind its name. `macs` and `flops` both mean multiply-adds: one multiply-add counts 1.
"""
GROUPS = {
    "problem": ("What is pruned", "The network, its data, the budgets, and which channels matter."),
    "search": ("The search", "What is tried, how well it is looked at, and when to stop."),
    "training": ("Training", "How the winner, the finalists and the methods that prune while they train are trained."),
    "run": ("Where and how", "Names, workers, devices, what is written."),
}
KINDS = {
    "int": "whole number",
    "float": "number",
    "bool": "yes or no",
    "str": "text",
    "object": "name, or an object in Python",
    "tuple": "texts (repeatable)",
    "dict": "KEY=VALUE (repeatable)",
    "int | str": "whole number, or a word",
}


def page(root: Path) -> str:
    """The text of the page."""
    return HEAD + "".join(
        f"\n## {title}\n\n{words}\n" + "".join(_entry(s) for s in SETTINGS.values() if s.group == group)
        for group, (title, words) in GROUPS.items()
    )


def _entry(about: Setting) -> str:
    kind = about.kind.__name__ if isinstance(about.kind, type) else str(about.kind)
    facts = [f"**{KINDS[kind]}**"]
    if span := _range(about):
        facts.append(span)
    facts.append(f"default: {_default(about)}")
    others = [verb for verb in about.verbs if verb != "profile"]
    taken = ", ".join(["search", "train", "profile", *others])
    unit = f" {about.metavar}" if about.metavar else ""
    flag = f"--[no-]{about.flag[2:]}" if about.kind is bool else f"{about.flag}{unit}"
    return (
        f"\n### {code(about.name)} {{ #{about.name} }}\n\n{code(flag)} · {' · '.join(facts)}\n\n"
        f"{plain(about.help)}.\n\nTaken by: {taken}.\n"
    )


def _range(about: Setting) -> str:
    if (about.low, about.high) == (-math.inf, math.inf):
        return ""
    return f"{about.low:,g} to {'any' if about.high == MOST else format(about.high, ',g')}"


def _default(about: Setting) -> str:
    if about.kind is bool:
        return "yes" if about.default else "no"
    if about.usual and not (about.usual[0].isdigit() and about.usual != str(about.default)):
        return plain(about.usual)
    return plain(about.usual) if about.usual else "none"
