"""Where a run comes from: what repeats it, with which versions and on which machines it was made."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Mapping

from autoprune.problem import TrialState
from autoprune.report.page.facts import Facts
from autoprune.report.tables import counted
from objectives.latency.environment import cpu_model

PLACE = ("machine", "cpu", "cores", "threads", "gpu")  # of what was written down with the versions


def again(facts: Facts) -> str:
    """What repeats the run."""
    if facts.config.model and facts.config.data:
        config, name = shlex.quote(str(facts.path / "config.toml")), shlex.quote(f"{facts.name}-again")
        return f"autoprune {facts.config.verb} --config {config} --name {name}"
    given = [n for n in ("model", "data") if not getattr(facts.config, n)]
    return (
        f"# {' and '.join(given)}: was an object, so only Python can give it again\n"
        f"settings = autoprune.RunConfig.read({str(facts.path / 'config.toml')!r})\n"
        f"settings |= {{{''.join(f'{n!r}: {n}, ' for n in given)}'name': {facts.name + '-again'!r}}}\n"
        f"autoprune.{facts.config.verb}(**settings)"
    )


def environment(facts: Facts) -> list[tuple[str, str]]:
    """What the run was made with and where, as far as it was written down; and where this page was."""
    written = versions(facts)
    place: dict[str, str] = {
        name: written.pop(name) for name in ("machine", "cpu", "cores", "threads", "gpu") if name in written
    }
    rows = [
        *written.items(),
        ("versions", facts.versions_changed),
        ("machine", _machine(place)),
        ("GPU", place.get("gpu", "")),
        ("device", facts.config.device),
    ]
    rows = [(name, value) for name, value in rows if value]
    workers = Counter(t.worker or "?" for t in facts.trials if t.state is not TrialState.RUNNING).most_common()
    if workers:
        rows.append(("evaluated by", ", ".join(f"{name} ({n})" for name, n in workers[:12])))
        if len(workers) > 12:
            rows.append(("", f"and {len(workers) - 12} more workers"))
    return [*rows, ("page made on", f"{platform.platform()}, {cpu_model()}")]


def _machine(place: Mapping[str, str]) -> str:
    """Its processor, and how much of it the run had."""
    counts = [counted(int(place[name]), name.removesuffix("s")) for name in ("cores", "threads") if name in place]
    return ", ".join([*(place[name] for name in ("cpu", "machine") if name in place), *counts])


def versions(facts: Facts) -> dict[str, str]:
    """What the run was made with, as far as it was written down."""
    provenance = facts.export.get("provenance", {}) if facts.export else {}
    return dict(provenance.get("versions") or facts.fingerprint.get("versions", {}))
