"""`python -m cdvqa.tools.help` writes the texts that `cdvqa COMMAND --help` shows without importing torch.

They are made from the commands' parsers, that is from signatures and docstrings; a test compares them.
"""

import inspect
import re
import textwrap
from argparse import Action
from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

from jsonargparse import capture_parser

from cdvqa import backbones
from cdvqa.backbones import Backbone
from cdvqa.cli.commands import COMMANDS, command
from cdvqa.cli.help_texts import TEXTS
from cdvqa.cli.parsing import OneLineParser
from cdvqa.objectives import OBJECTIVES
from cdvqa.presets import Protocol
from cdvqa.stages import MaskTrain
from cdvqa.tools import prepare

WIDTH = 120
CONFIGURED = ("fit", "validate", "test", "predict", "prune", "check", "info", "prepare questions")
"""Commands that take a config, so every option of a stage, its data and the trainer."""
OWN_PARSER = ("ask", "serve", "export", "push", "compare", "sweep", "search", "board", "report")
PREPARED = tuple(f"prepare {name}" for name in prepare.COMMANDS if name != "questions")

# In place of what the parser says of these options.
WORDS = {
    "config": "a file or a shipped config's name (see `cdvqa configs`); a later one wins over an earlier.",
    "print_config": "print the complete configuration, and run nothing.",
    "seed_everything": "seed of all random numbers, a whole number; each has a run of its own.",
    "ckpt_path": "a run folder, network file or checkpoint to use, or `last`; else the run of this config.",
    "model.objective": "one of those below, or package.module.Class.",
    "model.preset": "`paper` or `authors`: values of many fields (see --help preset).",
    "trainer.max_epochs": "epochs, over which the rate falls to 0.",
    "trainer.precision": "such as 32-true or bf16-mixed.",
    "trainer.accelerator": "cpu, gpu, or auto.",
    "trainer.devices": "how many, a list of them, or auto.",
    "trainer.strategy": "such as ddp for several devices.",
    "trainer.accumulate_grad_batches": "batches to an optimiser step.",
    "trainer.default_root_dir": "folder of the runs.",
}
RESUMES = {"ckpt_path": "`last`, or a checkpoint of this run: resume it."}
CLASS = "cdvqa.stages.FineTune, .MaskTrain or .FurtherFineTune; shipped configs name it."
FREQUENT = (
    "max_epochs",
    "precision",
    "accelerator",
    "devices",
    "strategy",
    "accumulate_grad_batches",
    "default_root_dir",
)

Row = tuple[str, str]  # an option, and what it is


def texts() -> dict[str, str]:
    """Every text by the name of its file. `{options}` in one stands for the text of that name."""
    found = {name.replace(" ", "_"): own_help(name) for name in (*OWN_PARSER, *PREPARED)}
    what = listed("what", [(name, make.__doc__.partition("\n")[0]) for name, make in prepare.COMMANDS.items()])
    about = f"{COMMANDS['prepare'][1].capitalize()}."
    found["prepare"] = joined([*usage("prepare", "WHAT [--OPTION VALUE ...]", about), *what])
    for name in CONFIGURED:
        parser = parser_of(name)
        own = [action for dest, action in options(parser).items() if "." not in dest and dest != "model"]
        about = (
            parser.description or "" if name in ("check", "prepare questions") else f"{COMMANDS[name][1].capitalize()}."
        )
        words = WORDS | (RESUMES if name in ("fit", "prune") else {})
        lines = usage(name, "[--config NAME_OR_FILE ...] [--OPTION VALUE ...]", about)
        found[name.replace(" ", "_")] = joined([*lines, *listed("options", rows(own, words)), "", "{options}"])
    fit = options(parser_of("fit"))
    data, trainer = (below(fit, prefix) for prefix in ("data", "trainer"))
    frequent = [trainer[f"trainer.{name}"] for name in FREQUENT]
    model, found["preset"] = model_options()
    last = [*listed("data", rows(data.values())), *listed("trainer (all: --help trainer)", rows(frequent, WORDS))]
    found["options"] = joined([*model, *last])
    found["trainer"] = joined(listed("options of Lightning's trainer", rows(trainer.values())))
    return found


def own_help(name: str) -> str:
    """The help of a command with options of its own."""
    parser = parser_of(name)
    found = options(parser).values()
    arguments = [action for action in found if not action.option_strings]
    given = [action for action in found if action.option_strings]
    others = [action for action in given if action.dest not in ("config", "print_config")]  # of `prepare`, in no use
    needed = [f"{title(action)} VALUE" for action in others if action.required]
    lines = usage(name, " ".join([*map(title, arguments), *needed, "[--OPTION VALUE ...]"]), parser.description or "")
    return joined([*lines, *listed("arguments", rows(arguments)), *listed("options", rows(others))])


def model_options() -> tuple[list[str], str]:
    """The options below `model`: lines on stage, objective, sparsity and backbone; a text on the preset's fields."""
    parser = OneLineParser()
    parser.add_class_arguments(MaskTrain, "model")
    found = options(parser)
    parts = {part: below(found, f"model.{part}") for part in ("objective", "sparsity", "backbone")}
    parts["objective"]["model.teacher"] = found["model.teacher"]
    preset = {name: action for field in fields(Protocol) if (action := found.get(name := f"model.{field.name}"))}
    linked = {"model.layout", "model.dev_share"}
    elsewhere = preset.keys() | linked | set().union(*parts.values())
    stage = [action for dest, action in found.items() if dest not in elsewhere]
    settled = [action for dest, action in preset.items() if dest not in linked]
    lines = [
        *listed("stage", [("--model", CLASS), *rows(stage, WORDS)]),
        *listed("objective", rows(parts["objective"].values(), WORDS)),
        *listed(
            "  objectives [and their options], see docs/OBJECTIVES.md", [("  ", "; ".join(map(objective, OBJECTIVES)))]
        ),
        *listed("sparsity (stages 2 and 3)", rows(parts["sparsity"].values())),
        *listed("backbone (more: --model.backbone.help CLASS)", [*rows(parts["backbone"].values()), *backbone_rows()]),
    ]
    return lines, joined(listed("fields that model.preset decides where they are null", rows(settled)))


def objective(name: str) -> str:
    """An objective, and its options with their defaults."""
    given = inspect.signature(OBJECTIVES[name]).parameters.values()
    own = ", ".join(f"{option.name} {shown(option.default)}" for option in given if option.default is not option.empty)
    return f"{name} [{own}]" if own else name


def backbone_rows() -> list[Row]:
    """The backbones, each with its own options."""
    kinds = {kind for kind in vars(backbones).values() if inspect.isclass(kind) and issubclass(kind, Backbone)}
    taken = {kind.__name__: inspect.signature(kind).parameters.keys() - {"num_answers"} for kind in kinds - {Backbone}}
    return [(f"  {name}", f"--model.backbone.{{{','.join(sorted(own))}}}") for name, own in sorted(taken.items())]


def parser_of(name: str) -> OneLineParser:
    """The parser of a command, which is stopped before it parses."""
    parser = capture_parser(command(name.split()[0]), [*name.split(), "--help"])
    if (nested := parser._subcommands_action) is None:
        return cast(OneLineParser, parser)
    # `prepare` has a parser for each thing to make; the others have one for themselves.
    return cast(OneLineParser, nested.choices.get(name.split()[-1]) or next(iter(nested.choices.values())))


def options(parser: OneLineParser) -> dict[str, Action]:
    """Arguments and options of a parser by name, without those that show help or only group others."""
    found = {action.dest: action for action in parser._actions if action.dest.split(".")[-1] != "help"}
    groups = {dest.rpartition(".")[0] for dest in found}
    return {dest: action for dest, action in found.items() if dest not in groups}


def below(found: Mapping[str, Action], prefix: str) -> dict[str, Action]:
    return {dest: action for dest, action in found.items() if dest.startswith(prefix)}


# --- words and lines --------------------------------------------------------------------------------------------------


def usage(name: str, words: str, about: str) -> list[str]:
    return [f"usage: cdvqa {name} {words}", "", *textwrap.wrap(" ".join(about.split()), WIDTH)]


def listed(head: str, known: list[Row]) -> list[str]:
    """A heading, and rows in two columns; nothing where there are no rows."""
    width = max((len(name) for name, _ in known), default=0) + 4
    lines = ["", f"{head}:"] if known else []
    for name, text in known:
        first, *more = textwrap.wrap(text, WIDTH - width, break_on_hyphens=False)
        lines += [f"  {name:<{width - 2}}{first}", *(" " * width + line for line in more)]
    return lines


def joined(lines: list[str]) -> str:
    return "\n".join(lines).strip("\n") + "\n"


def rows(actions: Iterable[Action], words: Mapping[str, str] | None = None) -> list[Row]:
    """Each option with its help, values that this does not name, and its default; help in `words` wins.

    Raises:
        ValueError: an option has no help.
    """
    found = []
    for action in actions:
        text = (words or {}).get(action.dest) or plain(action.help or "")
        if not text:
            raise ValueError(f"{action.dest} has no help; describe it in its docstring")
        facts = [] if all(map(text.__contains__, c := choices(getattr(action, "_typehint", None)))) else ["|".join(c)]
        if action.option_strings and action.default not in (None, "==SUPPRESS==") and action.default is not False:
            facts.append(f"default {shown(action.default)}")
        found.append((title(action), f"{text} [{', '.join(facts)}]" if facts else text))
    return found


def title(action: Action) -> str:
    """An option with its dashes, or an argument in capitals."""
    return next((option for option in action.option_strings if option.startswith("--")), action.dest.upper())


def plain(text: str) -> str:
    """A docstring's text without markup, and without a default that it states."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", " ".join(text.split())).replace("``", "`")
    return re.sub(r" ?Default: `[^`]*`\.?", "", text).strip()


def choices(hint: Any) -> list[str]:
    """The values that an option of this type takes, where they are few."""
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if get_origin(hint) in (Union, UnionType) else []
    return choices(kinds[0]) if len(kinds) == 1 else []


def shown(value: Any) -> str:
    """A default as in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    TEXTS.mkdir(exist_ok=True)
    for file, content in texts().items():
        (TEXTS / f"{file}.txt").write_text(content, encoding="utf-8")
