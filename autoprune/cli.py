"""The command line: `autoprune <verb>`. Flags and a TOML file say the same things; flags win."""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from autoprune.config import SETTINGS, RunConfig, Setting
from autoprune.errors import DeliveredElsewhere, Diverged, SearchStopped
from autoprune.examples import examples_of
from autoprune.interrupts import INTERRUPTED
from autoprune.printable import printable
from autoprune.process import Terminated, at_work, lasting_streams

if TYPE_CHECKING:
    from autoprune.report import RunProgress

TRUST = "needed once where you have not had it called on this machine before (see SECURITY.md)"
KNOWN = "needed where the run was begun with Python objects, or where files have moved (the weights must be the same)"


class Parser(argparse.ArgumentParser):
    """argparse that answers bad input with one sentence and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Say what was wrong, and where the help is."""
        kind, _, words = message.partition("unrecognized arguments: ")
        if not kind and re.match(r"\w+=", words):
            message += " (--data-args or --model-args before each KEY=VALUE?)"
        self.exit(2, f"autoprune: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if the search or the fine-tune had to stop; 2 for bad input, or if the standard output could not be
        written (whatever the command did is done); 130 after Ctrl-C, 143 after SIGTERM, 129
        after SIGHUP.
    """
    said: SystemExit | None = None
    with lasting_streams() as out, contextlib.ExitStack() as work:
        try:
            arguments = vars(parser().parse_args(argv))
            import autoprune.verbs  # noqa: F401  here, because --help need not wait for torch

            work.enter_context(at_work())  # only now: while modules are imported Ctrl-C just ends it (see `interrupts`)
            code = _run(arguments)
        except SystemExit as stop:  # --help, or a flag that is wrong
            code, said = int(stop.code or 0), stop
        out.flush()
        if out.lost and not code:
            _complain(f"the standard output cannot be written ({out.lost}); whatever else was written is safe")
            code = 2
    if said:
        raise SystemExit(code)
    return code


def _run(arguments: dict[str, Any]) -> int:
    from objectives.plugins import PluginError, described

    command, debug = arguments.pop("command"), arguments.pop("debug")
    try:
        _find_code_here()
        command(settings(arguments) if "run" in arguments else arguments)
        return 0
    except Terminated as end:
        _complain(str(end))
        return end.code
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except DeliveredElsewhere as news:
        print(news)
        return 0
    except (Exception, SystemExit) as error:
        if debug:
            traceback.print_exc()
        hint = "; --debug shows the traceback" if isinstance(error, PluginError) and not debug else ""
        if isinstance(error, (ValueError, OSError, SearchStopped, Diverged)):
            _complain(f"{error}{hint}")
            return 1 if isinstance(error, RuntimeError) else 2
        _complain(f"unexpected: {described(error)}; --debug shows the traceback, please report it")
        return 1


def _complain(text: str) -> None:
    print(f"autoprune: {printable(' '.join(text.split()))}", file=sys.stderr)


def _find_code_here() -> None:
    """--model my_package.module:factory, from the directory one stands in."""
    from objectives.guard import look_in

    if "" not in sys.path and os.getcwd() not in sys.path:
        look_in(os.getcwd())


def parser() -> Parser:
    """The whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = Parser(
        prog="autoprune",
        formatter_class=raw,
        epilog=examples_of(""),
        description="Prune a trained network to a budget: search the width of every layer, recover, export.",
    )
    top.add_argument("--version", action="version", version=_version())
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = top.add_subparsers(title="commands", metavar="<command>", required=True)

    def verb(name: str, command: Any, help: str, run: bool = True, without: Sequence[str] = ()) -> Parser:
        takes = [about for about in SETTINGS.values() if about.is_taken_by(name) and about.name not in without]
        kept = " What is not given stays as in the run." if run and takes else ""
        sub = verbs.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.{kept}",
            formatter_class=raw,
            argument_default=argparse.SUPPRESS,
            epilog=examples_of(name),
        )
        sub.set_defaults(command=command)
        if run:
            sub.add_argument("run", help="the run's directory, e.g. results/small18")
        elif takes:
            sub.add_argument("--config", metavar="FILE", help="a TOML file with the same names as these flags")
        if run or takes:
            what = "the run" if run else "the file of --config"
            sub.add_argument("--trust", action="store_true", help=f"what {what} names may be imported and run: {TRUST}")
        add_flags(sub, takes, name, of_run=run)
        return sub

    profile = verb(
        "profile", _profile, "show what can be pruned, what it costs and which budgets can be reached", run=False
    )
    profile.add_argument("--latency", action="store_true", help="time the dense network, too: every backend, per layer")
    adapt = verb("adapt", _adapt, "train the dense network to serve narrow ones, before a search", run=False)
    adapt.add_argument(
        "--steps", type=int, metavar="STEPS", help="SGD steps of weight-sharing adaptation (default: 100)"
    )
    adapt.add_argument(
        "--to",
        metavar="FILE",
        required=True,
        help="where the weights go, e.g. adapted.safetensors; their scores are put beside it",
    )
    verb("search", _search, "search, fine-tune the winner and export it", run=False)
    verb("train", _train, "let a method find what stays while the network trains, fine-tune and export it", run=False)
    resume = verb("resume", _resume, "go on with a run that was stopped or killed")
    resume.add_argument(
        "--restart",
        action="store_true",
        help="begin the search anew, with the settings of the run; what it has made is kept in RUN/before-restart-1",
    )
    resume.add_argument(
        "--allow-version-change",
        action="store_true",
        help="go on with other versions of torch, optuna or autoprune than so far (noted in the ledger and the report)",
    )
    status = verb("status", _status, "show how far a run is, and who does what, also while it is running")
    status.add_argument("--watch", action="store_true", help="go on showing it until the run ends (or Ctrl-C)")
    export = verb(
        "export", _export, "export the winner of a run, another trial, or either at another budget", without=["epochs"]
    )
    elsewhere = export.add_argument_group("another budget")
    elsewhere.add_argument(
        "--budget",
        action="append",
        metavar="BUDGET",
        help="cut the learnt ranking here instead, without a new search: nested with the winner (repeatable); after a "
        "search with --front, the best candidate of the front within it",
    )
    elsewhere.add_argument("--epochs", type=float, metavar="EPOCHS", help="epochs of a fine-tune there (default: 0)")
    finetune = verb("finetune", _finetune, "fine-tune the winner of a run anew, or another trial")
    attach = verb("attach", _attach, "deliver the network as you have trained it: measure and export it")
    attach.add_argument(
        "--weights", metavar="FILE", required=True, help="of the pruned network: .safetensors or a torch state dict"
    )
    attach.add_argument("--to", metavar="DIR", help="the export that gets them (default: <run>/best)")
    for sub, places in (
        (export, "<run>/best, <run>/trial-N, or <run>/macs-30pct"),
        (finetune, "<run>/finetuned, or <run>/finetuned-N"),
    ):
        sub.add_argument("--trial", type=int, metavar="N", help="a trial of the run (default: the winner)")
        sub.add_argument("--to", metavar="DIR", help=f"where the export goes (default: {places})")
    report = verb("report", _report, "print the report of a run; write its trials.csv and report.html")
    report.add_argument(
        "--html",
        action=argparse.BooleanOptionalAction,
        help="write report.html, one page that needs nothing else (default: where the extra 'report' is installed)",
    )
    report.add_argument("--png", action="store_true", help="write the charts of the page as PNG files too, to charts/")
    compare = verb("compare", _compare, "compare runs: a table, and a page with their charts overlaid", run=False)
    compare.add_argument("runs", nargs="+", metavar="run", help="directories of runs, e.g. results/a results/b")
    compare.add_argument(
        "--html",
        action=argparse.BooleanOptionalAction,
        help="write the page (default: where the extra 'report' is installed)",
    )
    compare.add_argument("--trust", action="store_true", help=f"costs that the runs name may be imported: {TRUST}")
    compare.add_argument("--to", metavar="FILE", help="where the page goes (default: compare.html beside run 1)")
    verb("demo", _demo, "train a small CNN on digits, prune it to half its MACs, compare", run=False)
    return top


def add_flags(target: argparse.ArgumentParser, settings: Sequence[Setting], verb: str, of_run: bool) -> None:
    """One flag for each setting, in the boxes of their groups; those of a run have no default of their own."""
    boxes: dict[str, argparse._ArgumentGroup] = {}
    for about in settings:
        if about.group not in boxes:
            why = KNOWN if of_run and about.group == "problem" else None
            boxes[about.group] = target.add_argument_group(about.group, why)
        text = about.help + (f" (default: {about.usual})" if about.usual and not of_run else "")
        told: dict[str, Any] = {"help": text.replace("%", "%%") if about.is_shown_by(verb) else argparse.SUPPRESS}
        if about.kind is bool:
            told["action"] = argparse.BooleanOptionalAction
        else:
            told["metavar"] = about.metavar
            told |= {"type": about.kind} if about.kind in (int, float, str) else {}
            told |= {"action": "append"} if about.kind in (tuple, dict) else {}
        boxes[about.group].add_argument(about.flag, **told)


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


def _key_value(name: str, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ValueError(f"--{name.replace('_', '-')} {text}: expected KEY=VALUE, e.g. num_classes=10")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a bare word


# -- the commands: each imports what it needs, so that --help is quick -----------------------------------------------


def _profile(arguments: dict[str, Any]) -> None:
    from autoprune.verbs import profile

    timed = arguments.pop("latency", False)
    given = settings(arguments)
    _complete(given)
    profile(latency=timed, progress=_progress(), **given).show()


def _complete(given: dict[str, Any]) -> RunConfig:
    """The configuration, with a model and data."""
    config = RunConfig.make(**given)
    for name in ("model", "data"):
        if not getattr(config, name) and not (name == "data" and config.task):
            raise ValueError(f"--{name}: missing; {SETTINGS[name].help}")
    return config


def _train(arguments: dict[str, Any]) -> None:
    from autoprune.report import print_result
    from autoprune.verbs import train

    given = settings(arguments)
    _complete(given)
    print_result(train(progress=_progress(), **given))


def _adapt(arguments: dict[str, Any]) -> None:
    from pathlib import Path

    from autoprune.runs import scores_beside
    from autoprune.verbs import adapt

    extra = {name: arguments.pop(name) for name in ("steps", "to") if name in arguments}
    given = settings(arguments)
    _complete(given)
    progress = _progress()
    adapt(progress=progress, **extra, **given)
    progress.say(
        f"search it with --weights {extra['to']} --criterion {scores_beside(Path(extra['to']))}, all else as here"
    )


def _search(arguments: dict[str, Any]) -> None:
    from autoprune.report import print_result
    from autoprune.verbs import search

    given = settings(arguments)
    _complete(given)
    print_result(search(progress=_progress(), **given))


def _resume(arguments: dict[str, Any]) -> None:
    from autoprune.report import print_result
    from autoprune.verbs import resume

    print_result(resume(progress=_progress(), **arguments))


def _status(arguments: dict[str, Any]) -> None:
    from autoprune.verbs import status

    status(**arguments).show()


def _export(arguments: dict[str, Any]) -> None:
    from autoprune.report import print_export
    from autoprune.verbs import export

    print_export(export(progress=_progress(), **arguments))


def _finetune(arguments: dict[str, Any]) -> None:
    from autoprune.report import print_export
    from autoprune.training.parallel import starts_first
    from autoprune.verbs import finetune

    speaks = starts_first()
    exported = finetune(progress=_progress() if speaks else False, **arguments)
    if speaks:
        print_export(exported)


def _attach(arguments: dict[str, Any]) -> None:
    from autoprune.report import print_export
    from autoprune.verbs import attach

    print_export(attach(progress=_progress(), **arguments))


def _report(arguments: dict[str, Any]) -> None:
    from autoprune.verbs import report

    report(**arguments).show()


def _compare(arguments: dict[str, Any]) -> None:
    from autoprune.verbs import compare

    compare(*arguments.pop("runs"), **arguments).show()


def _demo(arguments: dict[str, Any]) -> None:
    from autoprune.demo import main

    main()


def _progress() -> RunProgress:
    """A bar on a terminal, a line per trial elsewhere."""
    from autoprune.report import RunProgress

    return RunProgress()


def _version() -> str:
    import autoprune

    return f"autoprune {autoprune.__version__}"
