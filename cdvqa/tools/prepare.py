"""`cdvqa prepare`: make an embedded world, or get data ready for training."""

import re
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser, auto_cli

from cdvqa import worlds
from cdvqa.errors import InputError, nearest
from cdvqa.tools import prepare_questions
from cdvqa.tools.prepare_features import features

COMMANDS: dict[str, Any] = {
    "scenes": worlds.make_scenes,
    "scenes-vs": worlds.make_scenes_vs,
    "easyvqa": worlds.make_easyvqa,
    "features": features,
    "questions": prepare_questions.questions,
}


class Parser(ArgumentParser):
    """Makes `--overwrite` a flag, as it is in `cdvqa fit`."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("type") is bool:
            kwargs |= {"action": ActionYesNo}
            del kwargs["type"]
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise InputError: one line, without the usage."""
        from cdvqa.cli.parsing import one_line  # as slow as Lightning, which no world needs

        if 'expected "subcommand"' in message:
            raise InputError(
                f"name what to prepare: {', '.join(COMMANDS)}; `cdvqa prepare scenes` needs no data"
            ) from ex
        if required := re.search(r"arguments are required: (?:([\w-]+)\.)?(\w+)", message):
            asked = f"prepare {required[1]}" if required[1] else "prepare"
            raise InputError(f"--{required[2]}: missing; `cdvqa {asked} --help` explains it") from ex
        known = self._option_string_actions
        unknown = re.search(r"unrecognized arguments: (--[\w.]+)|invalid choice: '([\w-]+)' \(choose", message)
        like = nearest(unknown[1] or unknown[2], known if unknown[1] else COMMANDS) if unknown else ""
        raise InputError(one_line(message) + like) from ex


def run(args: list[str]) -> None:
    """Run one of the subcommands."""
    if args[1:2] == ["questions"]:  # its options are those of `cdvqa fit`, which only Lightning's parser knows
        return prepare_questions.run(args[2:])
    auto_cli(COMMANDS, args=args[1:], prog="cdvqa prepare", as_positional=False, parser_class=Parser)
