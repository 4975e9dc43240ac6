"""What is wrong with an option, in one line that names it."""

import ast
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from pytorch_lightning import callbacks, loggers
from pytorch_lightning.cli import LightningArgumentParser

from cdvqa import backbones, stages
from cdvqa.cli.help_texts import options_of
from cdvqa.errors import InputError, nearest

T = TypeVar("T")
# Lines of the parser's reports that describe its inner workings, not the mistake.
NOISE = re.compile(
    r"Does not validate against|Subtypes: |Errors:$|Given value|Expected a <class 'NoneType'>|Expected a path but|^tip:"
)
# Options of earlier versions, and what replaced them.
REPLACED = {
    "initialisation": "--model.sparsity.initialisation: use --model.sparsity.criterion (magnitude, random, "
    "first_order) and, in place of `weight`, --model.sparsity.scores weight"
}
COUNTS = ("num_answers", "min_count", "eval_batch_size")
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "dict": "a mapping"}


class OneLineParser(LightningArgumentParser):
    """LightningArgumentParser whose errors are one line instead of two screens of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of one class's options: the parser above reports it with the full name
            super().error(message, ex)
        replaced = next((text for name, text in REPLACED.items() if name in message), None)
        text = self.lacking(message) or one_line(message)
        raise InputError(replaced or text + nearest_option(text, self)) from ex

    def lacking(self, message: str) -> str:
        """What is missing of the arguments that a command must have, as its usage spells them; else nothing."""
        if (required := re.search(r"arguments are required: (.*)", message)) is None:
            return ""
        spelt = {one.dest: next(iter(one.option_strings), one.metavar or one.dest.upper()) for one in self._actions}
        names = ", ".join(str(spelt.get(name, name)) for name in required[1].split(", "))
        return f"{names}: missing; `{self.prog} --help` explains it"

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parse; jsonargparse hands a class's options on as text made by `str`, which writes null as None."""
        return super().parse_args(None if args is None else list(map(none_as_null, args)), *others, **options)


def call(command: Callable[..., T], args: Sequence[str], positional: Mapping[str, Mapping[str, Any]]) -> T:
    """Call the function of `cdvqa NAME`, called NAME too, with command-line arguments; return what it returns.

    Args:
        command: its docstring describes the command and its options.
        args: the arguments, NAME first.
        positional: names of the parameters that are no options, each with what `add_argument` takes.
    """
    summary = (command.__doc__ or "").partition("\n")[0]
    parser = OneLineParser(prog=f"cdvqa {command.__name__}", description=summary)
    for name, settings in positional.items():
        parser.add_argument(name, **settings)
    parser.add_function_arguments(command, skip=set(positional), as_group=False)
    return command(**parser.instantiate_classes(parser.parse_args(args[1:])))


def nearest_option(text: str, parser: LightningArgumentParser) -> str:
    """What an unknown option, or an unknown class, in an error may have been meant for: "; did you mean …?"."""
    if wrong := re.search(r"no class is called '(\w+)'", text):
        return nearest(wrong[1], [*backbones.__all__, *stages.__all__, *loggers.__all__, *callbacks.__all__])
    patterns = (
        r"unrecognized arguments: --([\w.]+)()",
        r"does not accept option '([\w.]+)()'",
        r"--([\w.]+): Option '(\w+)' is not accepted",
    )
    if (found := next(filter(None, (re.search(pattern, text) for pattern in patterns)), None)) is None:
        return ""
    option = found[1] if found[1].endswith(found[2]) else f"{found[1]}.{found[2]}"
    known = list(parser._option_string_actions)
    if "--model" in known or parser._subcommands_action:  # the help also has the options of stages and backbones
        known += options_of("fit")
    if (asked := text.partition(": unrecognized")[0]) in known:
        return f"; {asked} is an option of another stage or backbone, see `--help`"
    leaf = option.rpartition(".")[2]
    same = [name for name in known if re.search(rf"[._]{re.escape(leaf)}$", name)]
    # A beginning such as --model. makes options alike that are not.
    best = f"; did you mean {same[0]}?" if same else nearest(f"--{option}", known, cutoff=0.7)
    return best or "; `--help` lists the options"


def none_as_null(arg: str) -> str:
    """`--option=VALUE` with null for None, where VALUE is Python's None, or a list or dictionary that holds it."""
    option, equals, value = arg.partition("=")
    if not (option.startswith("--") and equals and "None" in value):
        return arg
    try:
        return f"{option}={json.dumps(ast.literal_eval(value))}"
    except (ValueError, SyntaxError, TypeError):
        return arg


def one_line(message: str) -> str:
    """The lines of a parser's report that name the mistake, joined."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    key, nested = re.search(r'Parser key "([^"]+)"', message), re.search(r"NestedArg\(key='([^']+)'", message)
    option = ".".join(found[1] for found in (key, nested) if found)
    kept = [plain(re.sub(r'Parser key "[^"]*":', "", line)) for line in lines if line and not NOISE.search(line)]
    parts = [part for part in dict.fromkeys(kept) if part.strip() and not (option and part.startswith("cannot make "))]
    # Where one of several types was meant and is wrong in itself, the others are of no interest.
    text = "; ".join([part for part in parts if not part.startswith("expected ")] or parts)
    value = re.search(r"Given value: (?!NestedArg)(.*)|NestedArg\(key='[^']+', val=(.*)\)", message)
    if value and text.startswith("expected ") and ", got " not in text:
        text += f", got {(value[1] or value[2]).strip()}"
    return f"--{option}: {text}" if option and not text.startswith("--") else text


def plain(line: str) -> str:
    """One line of a parser's report without Python's names of types."""
    line = re.sub(r"Expected a dot import path string: (.*)", r"no class is called '\1' (write its full path)", line)
    line = re.sub(r"Problem with given class_path '(.*)':", r"cannot make \1", line)
    line = re.sub(
        r"Not of type \w+:( .*)? does not conform to restriction v(\W+)(\d+)", r"expected a number \2 \3", line
    )
    line = re.sub(r"Not of type \w+: invalid literal .*: '(.*)'", r"expected a whole number, got \1", line)
    line = re.sub(r"Not of type \w+: could not convert .*: '(.*)'", r"expected a number, got \1", line)
    line = re.sub(
        r"\s*Unable to load config ['\"](.*)['\"];?\s*",
        r"expected a group of options, such as --model.sparsity.overall 0.5, got \1",
        line,
    )
    line = re.sub(r"Expected a typing.Literal\[(.*?)\]", r"expected one of \1", line)
    line = re.sub(r"Expected a <class '([\w.]+)'>", lambda of: f"expected {TYPES.get(of[1], of[1])}", line)
    line = re.sub(r"\. Got value: (.*)", r", got \1", line)
    return re.sub(r"('2:4'.*, got 124)$", r'\1; write "2:4" in quotes, YAML reads it as a number', line)


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raise InputError for a number that Lightning or torch would accept, and then train with wrongly or fail at.

    Args:
        settings: the whole configuration. Typed options would do, but their numbers are of classes of the parser's,
            which neither JSON nor a checkpoint takes.
    """
    seed, trainer, data = settings["seed_everything"], settings["trainer"], settings["data"]
    lr = settings["model"]["init_args"]["lr"]
    epochs, steps = trainer["max_epochs"], trainer["max_steps"]
    every, interval, limit = (
        trainer[name] for name in ("check_val_every_n_epoch", "val_check_interval", "limit_train_batches")
    )
    for name, value, sound, wanted in (
        ("seed_everything", seed, seed is True or (seed is not False and 0 <= seed < 1 << 32), "from 0 to 4294967295"),
        ("trainer.max_epochs", epochs, (epochs or 0) >= 0 or steps > 0, "0 or more: the rate falls to 0 over them"),
        ("trainer.accumulate_grad_batches", n := trainer["accumulate_grad_batches"], n >= 1, "1 or more"),
        (
            "trainer.gradient_clip_val",
            n := trainer["gradient_clip_val"],
            n is None or n >= 0,
            "0 (no clipping) or more",
        ),
        ("trainer.gradient_clip_algorithm", a := trainer["gradient_clip_algorithm"], a in (None, "norm"), "norm"),
        ("trainer.check_val_every_n_epoch", every, every is None or every >= 1, "1 or more"),
        ("trainer.limit_train_batches", limit, limit is None or limit > 0, "1 or more, or a share above 0"),
        ("trainer.val_check_interval", interval, not isinstance(interval, int | float) or interval > 0, "above 0"),
        ("model.lr", lr, 0 < lr < math.inf, "a number above 0"),
        *((f"data.{name}", data[name], data[name] >= 1, "1 or more") for name in COUNTS),
        *((f"data.{name}", data[name], data[name] >= 0, "0 or more") for name in ("num_workers", "split_seed")),
        ("trainer.log_every_n_steps", n := trainer["log_every_n_steps"], n is None or n >= 0, "0 or more"),
    ):
        if not sound:
            raise InputError(f"--{name} {value}: expected {wanted}")


def check_one_shot(stage: stages.VQAStage) -> None:
    """Raise InputError for a stage that trains something: `cdvqa prune` is not for it."""
    if stage.trains:
        made = "trains masks" if stage.stage == 2 else f"is stage {stage.stage}"
        remedy = "leave its config out (stage2_omp.yaml comes by itself), or use `cdvqa fit`"
        raise InputError(f"this configuration {made}, and prune is one-shot pruning, a stage 2; {remedy}")


@contextmanager
def naming_classes() -> Iterator[None]:
    """Report a class of the configuration that cannot be built in one line."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if "Problem with given class_path" not in str(error):
            raise
        raise InputError(one_line(str(error))) from error


def trainer_error(error: Exception, settings: Mapping[str, Any]) -> InputError:
    """What Lightning says of its settings, with the option: the one that it names first, or whose value it names."""
    text = " ".join(str(error).split())
    words = re.findall(r"\w+", text)
    named = next((word for word in words if word in settings), None)
    named = named or next((name for name, value in settings.items() if isinstance(value, str) and value in words), None)
    remedy = "; leave the option out, or give cpu" if named == "accelerator" and "backend found" in text else ""
    return InputError(f"--trainer{f'.{named} {settings[named]}' if named else ''}: {text}{remedy}")
