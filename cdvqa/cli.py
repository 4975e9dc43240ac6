"""The command table. Nothing heavy is imported before it is known that a command needs it."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from cdvqa import __version__
from cdvqa.errors import InputError

# command: (where it lives, what it does)
COMMANDS = {
    "fit": ("cdvqa.lightning_cli:run", "train a stage"),
    "validate": ("cdvqa.lightning_cli:run", "score a run on its development split"),
    "test": ("cdvqa.lightning_cli:run", "score a run on the test splits: results.json and predictions/"),
    "predict": ("cdvqa.lightning_cli:run", "answer the test questions: predictions/"),
    "prune": ("cdvqa.lightning_cli:prune", "stage 2 by one-shot magnitude pruning (OMP)"),
    "prepare": ("cdvqa.tools.prepare:run", "make an embedded world, or convert region features to HDF5"),
    "check": ("cdvqa.tools.check:run", "list every file a config needs, and whether it is there and sound"),
    "info": ("cdvqa.tools.info:run", "count a config's masked matrices and kept parameters, without weights or data"),
    "report": ("cdvqa.tools.report:run", "tabulate and plot the results under logs/"),
}

HELP = """\
usage: cdvqa COMMAND [--config NAME_OR_FILE ...] [--OPTION VALUE ...]

Compress and debias vision-language models for visual question answering.

commands:
{commands}

`cdvqa COMMAND --help` tells a command's options; `cdvqa fit --config stage2_lmh.yaml --print_config` shows a
complete configuration. A bare config name is looked up among the shipped configs."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 2 for wrong input, told in one line."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())))
        return 0
    if args[0] in ("--version", "-V"):
        print(f"cdvqa {__version__}")
        return 0
    try:
        return command(args[0])(args) or 0
    except SystemExit as stop:  # --help, --print_config
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        mistake = input_error_behind(error)
        if mistake is None:
            raise
        # A loader process sends its error home as text, with the traceback put before it.
        print(f"cdvqa {args[0]}: {str(mistake).rpartition('InputError: ')[2].strip()}", file=sys.stderr)
        return 2


def input_error_behind(error: BaseException | None) -> InputError | None:
    """The InputError that an exception was raised from: parsers wrap what a constructor raises."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def command(name: str) -> Callable[[list[str]], int | None]:
    """The function behind a command, imported now."""
    if name not in COMMANDS:
        raise InputError(f"no such command; there are {', '.join(COMMANDS)}")
    module, function = COMMANDS[name][0].split(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]
