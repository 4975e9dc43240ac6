"""The command table. Nothing heavy is imported before it is known that a command needs it."""

import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from cdvqa import __version__
from cdvqa.cli.help_texts import help_text
from cdvqa.errors import InputError, Stopped, chain, nearest, printable
from cdvqa.files import full_disk

# command: (where it lives, what it does)
COMMANDS = {
    "fit": ("cdvqa.cli.training:run", "train a stage"),
    "validate": ("cdvqa.cli.training:run", "score a run on its development split"),
    "test": ("cdvqa.cli.training:run", "score a run on the test splits: results.json and predictions/"),
    "predict": ("cdvqa.cli.predict:run", "answer the test questions, or your own: predictions/"),
    "prune": ("cdvqa.cli.training:prune", "stage 2 by one-shot magnitude pruning (OMP)"),
    "prepare": ("cdvqa.tools.prepare:run", "make an embedded world; get features or questions ready"),
    "check": ("cdvqa.tools.check:run", "list every file a config needs, and whether it is there and sound"),
    "info": ("cdvqa.tools.info:run", "count a config's masked matrices and kept parameters, without weights or data"),
    "ask": ("cdvqa.deploy.ask:run", "ask a network, or two side by side, one question about an image"),
    "serve": ("cdvqa.deploy.serve:run", "a local page that answers questions with networks, side by side"),
    "export": ("cdvqa.deploy.export:run", "write a network as a small file, or for ONNX, OpenVINO or Hugging Face"),
    "push": ("cdvqa.deploy.push:run", "write a network with its model card into a folder, or upload it to the hub"),
    "compare": ("cdvqa.deploy.compare:run", "compare two networks: settings, masks, answers, size and speed"),
    "sweep": ("cdvqa.studies.sweep.command:run", "run every run of a study, here or on a SLURM cluster"),
    "search": ("cdvqa.studies.search.command:run", "find the share of zeros of each modality at an overall sparsity"),
    "board": ("cdvqa.studies.board:run", "TensorBoard over all runs, laid out, with an overview of their tests"),
    "report": ("cdvqa.studies.report.command:run", "tables, figures and verdicts of runs, or of a study"),
    "configs": ("cdvqa.cli.configs:run", "list the shipped configs"),
    "completion": ("cdvqa.cli.completion:run", "print a script that completes commands and options in a shell"),
}

HELP = """\
usage: cdvqa COMMAND [--config NAME_OR_FILE ...] [--OPTION VALUE ...]

Compress and debias vision-language models for visual question answering.

commands:
{commands}

`cdvqa COMMAND --help` lists a command's options, and `cdvqa configs` the shipped configs, which --config takes by name.
`cdvqa fit --config stage2_lmh.yaml --print_config` shows a complete configuration."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0, or with one line on what happened: 2 for wrong input, 1 where something stopped it, 130 for an interrupt.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())))
        return 0
    if args[0] in ("--version", "-V"):
        print(f"cdvqa {__version__}")
        return 0
    return in_one_line(f"cdvqa {args[0]}", lambda: start(args))


def start(args: list[str]) -> int | None:
    """Show the help that is asked for, or run the command."""
    if (text := help_text(args)) is None:
        return command(args[0])(args)
    print(text, end="")
    return 0


def in_one_line(program: str, run: Callable[[], int | None]) -> int:
    """Call `run`; report what ends it in one line that begins with `program`. Return the exit status, as in `main`."""
    try:
        return run() or 0
    except SystemExit as stop:  # --help, --print_config
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning has shut the training down
            return print_reason(program, "interrupted", stop.__context__, 130)
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt as interrupt:
        return print_reason(program, "interrupted", interrupt, 130)
    except BrokenPipeError:  # the reader of our output has ended, as in `cdvqa report | head`
        sys.stdout = None  # Python would flush it and complain
        return 1
    except Exception as error:
        cause = readable_error_behind(error)
        if cause is None:
            raise
        return print_reason(program, str(cause), error, 2 if isinstance(cause, InputError) else 1)


def print_reason(program: str, what: str, error: BaseException, status: int) -> int:
    """Print one line on why a program ended, with the notes of its exceptions; return the exit status."""
    notes = dict.fromkeys(note for cause in chain(error) for note in getattr(cause, "__notes__", ()))
    print(printable(f"{program}: {'; '.join([what, *notes])}"), file=sys.stderr)
    return status


def readable_error_behind(error: BaseException) -> InputError | Stopped | None:
    """The cause of an exception that is written for users (parsers wrap what a constructor raises).

    Else a failure of the system; None for a defect of cdvqa, which keeps its traceback.
    """
    for cause in chain(error):
        if isinstance(cause, InputError | Stopped):
            return cause
    if reason := full_disk(error):
        return Stopped(f"{reason}; what was saved before is whole, make room")
    return next((text for cause in chain(error) if (text := system_failure(cause))), None)


def system_failure(error: BaseException) -> InputError | Stopped | None:
    """One line for a failure that can happen anywhere (memory, disk, nesting, another process); None for any other."""
    text = " ".join(str(error).split())
    match error:
        case MemoryError():
            return Stopped(f"not enough memory{f' ({text})' if text else ''}; take smaller batches or a larger machine")
        case RecursionError():
            return InputError("the input is nested too deeply")
        case OSError(strerror=str(reason)):
            return Stopped(f"{error.filename}: {reason}" if error.filename else reason)
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch is imported by the commands that need it
        return Stopped(f"not enough GPU memory ({text.partition('. ')[0]}); take a smaller --model.global_batch")
    if "allocate memory" in text:
        return Stopped(f"not enough memory ({text}); take smaller batches or a larger machine")
    if re.search(r"gloo|NCCL|Connection (reset|closed) by peer", text) and isinstance(error, RuntimeError):
        return Stopped("another process of this run has ended, or cannot be reached; its own output says why")
    return None


def command(name: str) -> Callable[[list[str]], int | None]:
    """The function behind a command, imported now."""
    if name not in COMMANDS:
        raise InputError(f"no such command; there are {', '.join(COMMANDS)}{nearest(name, COMMANDS)}")
    module, function = COMMANDS[name][0].split(":")
    run: Callable[[list[str]], int | None] = getattr(import_module(module), function)
    return run
