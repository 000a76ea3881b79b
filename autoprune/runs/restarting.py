"""A run whose ledger is gone: it is not begun again without a word, and what it left is kept when it is."""

from __future__ import annotations

import os
from pathlib import Path

from autoprune.files import disk
from autoprune.ledger import BEGUN, Ledger, shown
from autoprune.ledger.locks import held
from autoprune.runs.directory import RunDirectory

# What describes the problem stays; all the rest is what a search has made of it.
PROBLEM = (
    "config.toml", "origin.json", "space.json", "scores.safetensors", "example.safetensors", "latency.json", ".lock",
)  # fmt: skip
ASIDE = "before-restart-"
TRACES = (BEGUN, "trials.csv", "best", "finetune", "finalists", "ray")


def check_begun(run: RunDirectory) -> str:
    """Check that a run that has begun still has its ledger.

    Returns:
        What there is to say: of a run that was killed before it began; else "".

    Raises:
        ValueError: If the ledger is gone, or empty, although there are traces of a search.
    """
    if Ledger.has_begun(run.path, url=run.config.ledger, study=run.study):
        return ""
    url = run.config.ledger
    place = f"database '{shown(url)}'" if url else f"'{run.path / 'ledger.log'}'"
    training = bool(run.config.method) and not _has_tuned(run)  # a method trains before there is a candidate
    if traces := [n for n in TRACES if os.path.lexists(run.path / n) and not (training and n == run.checkpoint.name)]:
        held = f"no study '{run.study}'" if url else "no trial"
        raise ValueError(
            f"run '{run.path}': {place} holds {held}, but the run has been at work (there is {traces[-1]}); restore "
            f"the ledger from a copy, or begin anew with `autoprune resume {run.path} --restart`, which keeps what "
            f"there is in {_fresh(run.path)}"
        )
    if training and run.checkpoint.is_dir():
        return f"run {run.path}: was stopped in its training with {run.config.method}; it goes on"
    return f"run {run.path}: was stopped before its first trial; it begins"


def _has_tuned(run: RunDirectory) -> bool:
    """Whether there are states of a candidate's training: they bear its number."""
    return run.checkpoint.is_dir() and any(path.name[0].isdecimal() for path in run.checkpoint.iterdir())


def set_aside(run: RunDirectory) -> str:
    """Keep all that a search has made beside, so that it begins anew.

    Returns:
        What was done, in a sentence.

    Raises:
        ValueError: If somebody is at work on the run, its study is still in a database, or a file cannot be moved.
    """
    url = run.config.ledger
    if url and Ledger.has_begun(run.path, url=url, study=run.study):
        raise ValueError(
            f"restart: the study '{run.study}' is in the database '{shown(url)}' and stays there; resume it without "
            "--restart, or start a run of another name"
        )
    with held(run.path):
        made = sorted(p for p in run.path.iterdir() if p.name not in PROBLEM and not p.name.startswith(ASIDE))
        if not made:
            return f"run {run.path}: has made nothing yet; it begins"
        aside = _fresh(run.path)
        with disk(aside):
            aside.mkdir()
            for path in made:
                path.rename(aside / path.name)
    names = ", ".join(p.name for p in made if p.name != BEGUN)
    return f"run {run.path}: begins anew; what it had made is kept in {aside}" + (f" ({names})" if names else "")


def _fresh(run: Path) -> Path:
    """The first place of its name that is free."""
    number = 1
    while os.path.lexists(place := run / f"{ASIDE}{number}"):
        number += 1
    return place
