"""The whole command line as a parser, made of `SETTINGS`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from autoprune.cli import commands
from autoprune.cli.examples import examples_of
from autoprune.cli.suggestions import completed, latest_run, near
from autoprune.config import SETTINGS, Setting

TRUST = "needed once where you have not had it called on this machine before (see SECURITY.md)"
KNOWN = """\
needed where the run was begun with Python objects, or where files have moved
(the weights must be the same)"""


class Parser(argparse.ArgumentParser):
    """argparse that answers bad input with one sentence and exit code 2, and whose help is short or whole.

    Args:
        whole_epilog: What stands below the whole help; default `epilog`.
        **kwargs: Of argparse.
    """

    def __init__(self, *, whole_epilog: str = "", **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)  # `--dept` is a slip
        self.whole_epilog = whole_epilog
        self._long: dict[argparse.Action, str | None] = {}  # help of what the short one leaves out or shortens
        self._words: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; the words are kept for what is said of them."""
        self._words = list(args or ())
        return super().parse_known_args(args, namespace)

    def add_long(self, action: argparse.Action, help: str) -> None:
        """What `--help-all` says of a flag."""
        self._long[action] = help

    def show_help_all(self, help: str) -> None:
        """List `--help-all`."""
        next(action for action in self._actions if isinstance(action, HelpAll)).help = help

    def show_all(self) -> None:
        """From now on the help is whole, that of the commands, too."""
        for action, help in self._long.items():
            action.help = help
        self.usage, self.epilog = None, self.whole_epilog or self.epilog
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    sub.show_all()

    def format_help(self) -> str:
        """The help, without the heads of groups that show nothing."""
        for group in self._action_groups:
            if all(action.help is argparse.SUPPRESS for action in group._group_actions):
                group.description = None
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Say what was wrong, and what to type."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                verbs = list(action.choices)
                for verb in set(verbs).intersection(self._words[:2]):
                    flags += [f for a in action.choices[verb]._actions for f in a.option_strings]
                if message.startswith("argument <command>: invalid choice"):
                    wrong = message.partition("'")[2].partition("'")[0]
                    message = f"unknown command '{wrong}'{near(wrong, verbs)}"
        kind, _, words = message.partition("unrecognized arguments: ")
        if not kind and re.match(r"\w+=", words):
            message += " (--data-args or --model-args before each KEY=VALUE?)"
        elif not kind:
            message += near(words.partition(" ")[0].partition("=")[0], flags)
        if message.startswith("the following arguments are required: "):
            message += f"; see {self.prog} --help; next: {self._completed(message.partition(': ')[2].split(', '))}"
        else:
            message += f"; see {self.prog} --help"
        self.exit(2, f"autoprune: {message}\n")

    def _completed(self, names: Sequence[str]) -> str:
        """The command with what it lacks; where that is a run and there is none, how to get one."""
        if isinstance(self._subparsers, argparse._ArgumentGroup):
            return completed(self.prog, self._words, "--help")
        run, needed = latest_run(), []
        for action in self._actions:
            if not action.required or not {*action.option_strings, action.metavar, action.dest} & {*names}:
                continue
            if not action.option_strings and not run:
                return "autoprune demo"
            needed.append(f"{action.option_strings[0]} {action.metavar}" if action.option_strings else str(run))
        return completed(self.prog, self._words, " ".join(needed))


class HelpAll(argparse.Action):
    """`--help-all`: the help with every setting."""

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print it, and end."""
        parser.show_all()
        parser.print_help()
        parser.exit()


def parser() -> Parser:
    """The whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = Parser(
        prog="autoprune",
        formatter_class=raw,
        epilog=examples_of(""),
        description="Prune a trained network to a budget: search each layer's number of channels, fine-tune, export.",
    )
    top.add_argument("--version", action="version", version=_version())
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = top.add_subparsers(title="commands", metavar="<command>", required=True)

    def verb(name: str, command: Any, help: str, run: bool = True, without: Sequence[str] = ()) -> Parser:
        takes = [about for about in SETTINGS.values() if about.is_taken_by(name) and about.name not in without]
        kept = "\nWhat is not given stays as in the run." if run and takes else ""
        sub = verbs.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.{kept}",
            formatter_class=raw,
            argument_default=argparse.SUPPRESS,
            epilog=examples_of(name),
            whole_epilog=examples_of(name, units=True),
        )
        sub.add_argument("--help-all", action=HelpAll, nargs=0, dest="help", help=argparse.SUPPRESS)
        sub.set_defaults(command=command)
        if run:
            sub.add_argument("run", help="the run's directory, e.g. results/small18")
        elif takes:
            sub.add_argument("--config", metavar="FILE", help="a TOML file with the same names as these flags")
        if run or takes:
            what = "the run" if run else "that file"
            trust = sub.add_argument("--trust", action="store_true", help=f"what {what} names may be called")
            sub.add_long(trust, f"what {what} names may be imported and run: {TRUST}")
        add_flags(sub, takes, name, of_run=run)
        return sub

    profile = verb(
        "profile",
        commands.profile,
        "show what can be pruned, what it costs and which budgets can be reached",
        run=False,
    )
    profile.add_argument("--latency", action="store_true", help="time the dense network, too: every backend, per layer")
    verb("search", commands.search, "search, fine-tune the winner and export it", run=False)
    verb(
        "train",
        commands.train,
        "let a method find what stays while the network trains, fine-tune and export it",
        run=False,
    )
    resume = verb("resume", commands.resume, "go on with a run that was stopped or killed")
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
    status = verb("status", commands.status, "show how far a run is, and who does what, also while it is running")
    status.add_argument("--watch", action="store_true", help="go on showing it until the run ends (or Ctrl-C)")
    export = verb(
        "export",
        commands.export,
        "export the winner of a run, another trial, or either at another budget",
        without=["epochs"],
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
    finetune = verb("finetune", commands.finetune, "fine-tune the winner of a run anew, or another trial")
    attach = verb("attach", commands.attach, "deliver the network as you have trained it: measure and export it")
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
    report = verb("report", commands.report, "print the report of a run; write its trials.csv and report.html")
    report.add_argument(
        "--html",
        action=argparse.BooleanOptionalAction,
        help="write report.html, one page that needs nothing else (default: where the extra 'report' is installed)",
    )
    report.add_argument("--png", action="store_true", help="write the charts of the page as PNG files too, to charts/")
    compare = verb(
        "compare", commands.compare, "compare runs: a table, and a page with their charts overlaid", run=False
    )
    compare.add_argument("runs", nargs="+", metavar="run", help="directories of runs, e.g. results/a results/b")
    compare.add_argument(
        "--html",
        action=argparse.BooleanOptionalAction,
        help="write the page (default: where the extra 'report' is installed)",
    )
    compare.add_argument("--trust", action="store_true", help=f"costs that the runs name may be imported: {TRUST}")
    compare.add_argument("--to", metavar="FILE", help="where the page goes (default: compare.html beside run 1)")
    doctor = verb("doctor", commands.doctor, "show what is installed here and what is missing for what", run=False)
    doctor.add_argument("--ledger", metavar="URL", help="a database to be reached: postgresql://user@host/db")
    doctor.add_argument("--cluster", metavar="RAY", help="a Ray cluster to be reached: auto, local or ray://host:port")
    doctor.add_argument("--data", metavar="SPEC", help="data to be found: cifar10:DIR, imagefolder:DIR ...")
    doctor.add_argument("--name", metavar="NAME", help="where a run is to be kept (default: results/)")
    doctor.add_argument("--json", action="store_true", help="for programs")
    completion = verb("completion", commands.completion, "print what completes commands in a shell by Tab", run=False)
    completion.set_defaults(top=top)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    verb("demo", commands.demo, "train a small CNN on digits, prune it to half its MACs, compare", run=False)
    return top


def add_flags(target: Parser, settings: Sequence[Setting], verb: str, of_run: bool) -> None:
    """One flag for each setting, in the boxes of their groups; those of a run have no default of their own."""
    boxes: dict[str, argparse._ArgumentGroup] = {}
    for about in settings:
        if about.group not in boxes:
            why = KNOWN if of_run and about.group == "problem" else None
            boxes[about.group] = target.add_argument_group(about.group, why)
        told: dict[str, Any] = {}
        if about.kind is bool:
            told["action"] = argparse.BooleanOptionalAction
        else:
            told["metavar"] = about.metavar
            told |= {"type": about.kind} if about.kind in (int, float, str) else {}
            told |= {"action": "append"} if about.kind in (tuple, dict) else {}
        action = boxes[about.group].add_argument(about.flag, **told)
        usual = f" (default: {about.usual})" if about.usual and not of_run else ""
        action.help = argparse.SUPPRESS
        if about.is_shown_by(verb):
            target.add_long(action, (about.help + usual).replace("%", "%%"))
        if about.is_common_in(verb):
            text = (about.brief or about.help) + (usual if about.default not in (0, False) else "")
            action.help = text.replace("%", "%%")
    if hidden := sum(about.is_shown_by(verb) and not about.is_common_in(verb) for about in settings):
        target.usage = f"{target.prog} [settings]{' run' if of_run else ''}"
        target.show_help_all(f"show {hidden} more settings, and more about these")


def _version() -> str:
    import autoprune

    return f"autoprune {autoprune.__version__}"
