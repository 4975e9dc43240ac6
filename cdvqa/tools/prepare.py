"""`cdvqa prepare`: make an embedded world, or get data ready for training."""

from typing import Any

from jsonargparse import ActionYesNo, ArgumentParser, auto_cli

from cdvqa import worlds
from cdvqa.tools import prepare_questions
from cdvqa.tools.prepare_features import features


class Parser(ArgumentParser):
    """Makes `--overwrite` a flag, as it is in `cdvqa fit`."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if kwargs.get("type") is bool:
            kwargs |= {"action": ActionYesNo}
            del kwargs["type"]
        return super().add_argument(*args, **kwargs)


def run(args: list[str]) -> None:
    """Run one of the subcommands."""
    if args[1:2] == ["questions"]:  # its options are those of `cdvqa fit`, which only Lightning's parser knows
        return prepare_questions.run(args[2:])
    commands: dict[str, Any] = {
        "scenes": worlds.make_scenes,
        "scenes-vs": worlds.make_scenes_vs,
        "easyvqa": worlds.make_easyvqa,
        "features": features,
        "questions": prepare_questions.questions,
    }
    auto_cli(commands, args=args[1:], prog="cdvqa prepare", as_positional=False, parser_class=Parser)
