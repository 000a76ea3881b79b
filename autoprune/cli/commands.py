"""The commands: each imports what it needs, so that --help is quick."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from autoprune.cli.suggestions import EXAMPLES, FIRST, Missing
from autoprune.config import SETTINGS, RunConfig

if TYPE_CHECKING:
    from autoprune.report import RunProgress


def settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """What the TOML file and the flags say together; flags win."""
    flags = dict(arguments)
    path, trust = flags.pop("config", None), "run" not in flags and flags.pop("trust", False)
    for name, about in SETTINGS.items():
        if name in flags and about.kind is dict:
            flags[name] = dict(_key_value(name, text) for text in flags[name])
    if not path:
        return flags
    from autoprune.runs import allow_file

    said = RunConfig.read(path)
    allow_file(path, said, flags, trust)
    return {**said, **flags}


WORDS = {"true": True, "false": False}  # as in config.toml


def _key_value(name: str, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ValueError(f"--{name.replace('_', '-')} {text}: expected KEY=VALUE, e.g. num_classes=10")
    try:
        return key, WORDS[value] if value in WORDS else ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a bare word


def profile(arguments: dict[str, Any]) -> None:
    """`autoprune profile`."""
    from autoprune.verbs import profile

    timed = arguments.pop("latency", False)
    given = settings(arguments)
    _complete(given)
    profile(latency=timed, progress=_progress(), **given).show()


def _complete(given: dict[str, Any], *further: str) -> None:
    """Check that there are a model, data, and further settings without which the command cannot begin."""
    config = RunConfig.make(**given)
    lacks = [name for name in ("model", "data", *further) if not getattr(config, name)]
    if config.task and "data" in lacks:
        lacks.remove("data")
    if lacks:
        said = "; ".join(f"--{name}: missing; {SETTINGS[name].brief or SETTINGS[name].help}" for name in lacks)
        said += " (or --task)" * ("data" in lacks)
        raise Missing(said, " ".join(EXAMPLES[name] for name in lacks), FIRST if "model" in lacks else "")


def train(arguments: dict[str, Any]) -> None:
    """`autoprune train`."""
    from autoprune.report import print_result
    from autoprune.verbs import train

    given = settings(arguments)
    _complete(given, "method")
    print_result(train(progress=_progress(), **given))


def search(arguments: dict[str, Any]) -> None:
    """`autoprune search`."""
    from autoprune.report import print_result
    from autoprune.verbs import search

    given = settings(arguments)
    _complete(given)
    print_result(search(progress=_progress(), **given))


def resume(arguments: dict[str, Any]) -> None:
    """`autoprune resume`."""
    from autoprune.report import print_result
    from autoprune.verbs import resume

    print_result(resume(progress=_progress(), **arguments))


def status(arguments: dict[str, Any]) -> None:
    """`autoprune status`."""
    from autoprune.verbs import status

    status(**arguments).show()


def export(arguments: dict[str, Any]) -> None:
    """`autoprune export`."""
    from autoprune.report import print_export
    from autoprune.verbs import export

    print_export(export(progress=_progress(), **arguments))


def finetune(arguments: dict[str, Any]) -> None:
    """`autoprune finetune`."""
    from autoprune.report import print_export
    from autoprune.training.parallel import starts_first
    from autoprune.verbs import finetune

    speaks = starts_first()
    exported = finetune(progress=_progress() if speaks else False, **arguments)
    if speaks:
        print_export(exported)


def attach(arguments: dict[str, Any]) -> None:
    """`autoprune attach`."""
    from autoprune.report import print_export
    from autoprune.verbs import attach

    print_export(attach(progress=_progress(), **arguments))


def report(arguments: dict[str, Any]) -> None:
    """`autoprune report`."""
    from autoprune.verbs import report

    report(**arguments).show()


def compare(arguments: dict[str, Any]) -> None:
    """`autoprune compare`."""
    from autoprune.verbs import compare

    compare(*arguments.pop("runs"), **arguments).show()


def demo(arguments: dict[str, Any]) -> None:
    """`autoprune demo`."""
    from autoprune.demo import main

    main()


def doctor(arguments: dict[str, Any]) -> int:
    """`autoprune doctor`.

    Returns:
        The exit code.
    """
    from autoprune.doctor import Checkup

    as_json = arguments.pop("json", False)
    checkup = Checkup(**arguments)
    if as_json:
        print(checkup.to_json())
    else:
        checkup.show()
    return 0 if checkup.is_sound else 1


def completion(arguments: dict[str, Any]) -> None:
    """`autoprune completion`."""
    from autoprune.cli.completion import script

    print(script(arguments["top"], arguments["shell"]))


def _progress() -> RunProgress:
    """A bar on a terminal, a line per trial elsewhere."""
    from autoprune.report import RunProgress

    return RunProgress()
