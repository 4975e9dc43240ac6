"""Messages of libraries: those that a user can do nothing about are left out, the others take cdvqa's style."""

import logging
import re
import warnings
from typing import Literal

from cdvqa.messages import Style, say, speak

EXPECTED = (
    # Evaluation accuracies are already the same on every rank: torchmetrics has reduced them.
    "It is recommended to use `self.log.*sync_dist=True",
    # cdvqa's command table hands the arguments on.
    "LightningCLI's args parameter is intended to run from within Python",
    # It has only the batch to go by, and only for weighting what is logged.
    "Trying to infer the `batch_size` from an ambiguous collection",
    "The number of training batches .* is smaller than the logging interval",
    # A run that holds nothing out of train has nothing to validate on.
    "Total length of `list` across ranks is zero",
    "Checkpoint directory .* exists and is not empty",
    # Lightning calls torch's old name of the tree utilities.
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)
# Messages that every run would print.
COMMONPLACE = re.compile(
    r"litlogger|^[GTH]PU available|^`Trainer.fit` stopped|^Loading `train_dataloader` to|^LOCAL_RANK|^You are using a C"
)
LogStyle = Literal["text", "json"]


class Lines(logging.Handler):
    """Hands records to `cdvqa.messages.say`."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), "log", level=record.levelname.lower(), text=record.getMessage())


LINES = Lines()


def take_style(style: Style) -> None:
    """Print the messages of cdvqa and of Lightning in this style."""
    speak(style)
    logger = logging.getLogger("pytorch_lightning")
    logger.setLevel(logging.WARNING if style == "quiet" else logging.INFO)
    logger.removeHandler(LINES)
    if style == "json":
        logger.addHandler(LINES)
    for handler in logger.handlers:
        if handler is not LINES:
            handler.setLevel(logging.WARNING if style == "json" else logging.NOTSET)


def quieten() -> None:
    """Silence the expected warnings and what is said of every run, and nothing else."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(is_news)
    # The run folder names the seed; a study would print this line for each of its runs.
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message=f".*{message}.*")


def is_news(record: logging.LogRecord) -> bool:
    return not COMMONPLACE.search(record.getMessage())
