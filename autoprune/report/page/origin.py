"""Where a run comes from: what repeats it, with which versions and on which machines it was made."""

from __future__ import annotations

import platform
import shlex
from collections import Counter

from autoprune.problem import TrialState
from autoprune.report.page.facts import Facts


def again(facts: Facts) -> str:
    """What repeats the run."""
    if facts.config.model and facts.config.data:
        config, name = shlex.quote(str(facts.path / "config.toml")), shlex.quote(f"{facts.name}-again")
        return f"autoprune search --config {config} --name {name}"
    given = [n for n in ("model", "data") if not getattr(facts.config, n)]
    return (
        f"# {' and '.join(given)}: was an object, so only Python can give it again\n"
        f"settings = autoprune.RunConfig.read({str(facts.path / 'config.toml')!r})\n"
        f"settings |= {{{''.join(f'{n!r}: {n}, ' for n in given)}'name': {facts.name + '-again'!r}}}\n"
        "autoprune.search(**settings)"
    )


def environment(facts: Facts) -> list[tuple[str, str]]:
    """What the run was made with and where, as far as it was written down; and where this page was."""
    rows = list(versions(facts).items())
    rows.append(("device", facts.config.device))
    workers = Counter(t.worker or "?" for t in facts.trials if t.state is not TrialState.RUNNING).most_common()
    if workers:
        rows.append(("evaluated by", ", ".join(f"{name} ({n})" for name, n in workers[:12])))
        if len(workers) > 12:
            rows.append(("", f"and {len(workers) - 12} more workers"))
    return [*rows, ("page made on", f"{platform.platform()}, {processor()}")]


def processor() -> str:
    """What the system calls this machine's processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(facts: Facts) -> dict[str, str]:
    """What the run was made with, as far as it was written down."""
    provenance = facts.export.get("provenance", {}) if facts.export else {}
    return dict(provenance.get("versions") or facts.fingerprint.get("versions", {}))
