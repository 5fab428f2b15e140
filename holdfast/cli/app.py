"""The command: its verbs, its errors as one line on stderr, exit codes that scripts can trust."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from holdfast import __version__
from holdfast.cli import output
from holdfast.cli.combinations import check as check_combination
from holdfast.cli.failure import catch_stray_messages, fail, json_wanted, name_of
from holdfast.cli.verbs.add import add
from holdfast.cli.verbs.adopt import adopt
from holdfast.cli.verbs.backup import backup
from holdfast.cli.verbs.commit import commit
from holdfast.cli.verbs.delete import delete
from holdfast.cli.verbs.diff import diff
from holdfast.cli.verbs.doctor import doctor
from holdfast.cli.verbs.get import get
from holdfast.cli.verbs.init_container import init_container
from holdfast.cli.verbs.latest import latest
from holdfast.cli.verbs.list import list_
from holdfast.cli.verbs.pause import pause, resume
from holdfast.cli.verbs.pin import pin
from holdfast.cli.verbs.pipeline.check import check as pipeline_check
from holdfast.cli.verbs.pipeline.pull import pull as pipeline_pull
from holdfast.cli.verbs.pipeline.push import push as pipeline_push
from holdfast.cli.verbs.pipeline.verify import verify as pipeline_verify
from holdfast.cli.verbs.promote import promote
from holdfast.cli.verbs.prune import prune
from holdfast.cli.verbs.pull import pull
from holdfast.cli.verbs.push import push
from holdfast.cli.verbs.restore import restore
from holdfast.cli.verbs.show import show
from holdfast.cli.verbs.stage import stage
from holdfast.cli.verbs.switch import switch
from holdfast.cli.verbs.unpin import unpin
from holdfast.cli.verbs.verify import verify
from holdfast.cli.verbs.watch import watch
from holdfast.errors import ExitCode, UsageError
from holdfast.printable import learn_secrets

#: the verbs for a tracking server are a group of their own
PIPELINE = "pipeline"


def _full_name(ctx: Any) -> str:
    """The verb as it is typed, with its group."""
    group = ctx.parent
    above = group.info_name if group is not None and group.parent is not None else None
    return f"{above} {ctx.info_name}" if above else str(ctx.info_name)


class Verb(TyperCommand):
    """One verb: refuses empty values, as of a variable that is not set, and useless options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.get_params(ctx):
            value = typed.get(param.name)
            if "" in value if isinstance(value, list | tuple) else value == "":
                raise UsageError(
                    f"{name_of(None, param)} is empty: give it a value, or leave it out; is a shell"
                    " variable not set?"
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
        typed = {
            name for name, source in sources.items() if source and source.name == "COMMANDLINE"
        }
        check_combination(_full_name(ctx), typed, ctx.params)
        return super().invoke(ctx)


class HoldfastGroup(TyperGroup):
    """The command group: whatever happens, an error is one line and an exit code (`ExitCode`)."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        learn_secrets(words)
        output.start()
        self._verb: str | None = None
        self._json = json_wanted(words)
        try:
            ended = super().main(
                words, prog_name, complete_var, False, windows_expand_args, **extra
            )
            sys.stdout.flush()
        except BrokenPipeError:  # `holdfast list | head`: nobody reads on
            sys.exit(ExitCode.FAILED)
        except (SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed by now
                sys.exit(ExitCode.MISUSE)
            sys.exit(fail(error, self._json, self._verb))
        sys.exit(ended if isinstance(ended, int) else ExitCode.DONE)

    def invoke(self, ctx: Any) -> Any:
        words = [*ctx._protected_args, *ctx.args]
        self._verb = " ".join(words[: 2 if words[:1] == [PIPELINE] else 1]) or None
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # or Typer would end without a word
            raise typer.Exit(fail(error, self._json, self._verb)) from None


class App(typer.Typer):
    """The command as a process."""

    def __call__(self, *args: Any, **options: Any) -> None:
        """Run a verb, and end without taking the interpreter apart.

        A thread of obstore, or one left behind at a deadline, may want the interpreter for a moment
        longer than the verb needs; while Python takes it apart, such a thread aborts the process
        (SIGABRT, no longer exit code 0). Nothing of ours is left to do then: what must last was
        synced by the verb, and no thread or atexit handler has work.
        """
        output.open_streams()
        catch_stray_messages()
        self._leave_out_what_is_not_asked_for(sys.argv[1:2])
        try:
            super().__call__(*args, **options)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            with suppress(OSError):  # `main` has said so if the result was not written
                sys.stdout.flush()
            with suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def _leave_out_what_is_not_asked_for(self, words: Sequence[str]) -> None:
        """Typer makes the options of every verb before it looks for the one that was typed, which
        takes a fifth of a short command. Whatever is not a verb's name finds all of them: help,
        completion, a mistyped verb."""
        verbs = [one for one in self.registered_commands if one.name in words]
        groups = [one for one in self.registered_groups if one.name in words]
        if verbs or groups:
            self.registered_commands, self.registered_groups = verbs, groups


app = App(
    name="holdfast",
    cls=HoldfastGroup,
    help="Keep what training knows: verified checkpoints on a volume, copies in a store.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.result(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    """Options of the command itself; what it is for stands in `app`."""


for _panel, _verbs in {
    "Volume": (commit, latest, watch),
    "Volume and store": (
        list_,
        show,
        verify,
        pin,
        unpin,
    ),
    "Transfer": (push, pull, stage, switch),
    "Datasets and models": (add, get, promote, diff),
    "Retention": (prune, delete),
    "Ownership": (adopt,),
    "Health": (doctor,),
    "Cluster": (backup, restore, pause, resume, init_container),
}.items():
    for _verb in _verbs:
        _name = _verb.__name__.rstrip("_").replace("_", "-")
        app.command(_name, cls=Verb, rich_help_panel=_panel)(_verb)

_group = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
for _verb in (pipeline_push, pipeline_verify, pipeline_pull, pipeline_check):
    _group.command(_verb.__name__, cls=Verb)(_verb)
app.add_typer(
    _group,
    name=PIPELINE,
    help="A tracking server's database and artifacts, as one snapshot.",
    rich_help_panel="Pipeline",
)
