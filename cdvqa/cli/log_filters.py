"""What the libraries below say that a user can do nothing about."""

import logging
import warnings

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


def quieten() -> None:
    """Silence the expected warnings, and no others."""
    advice = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    advice.addFilter(lambda record: "litlogger" not in record.getMessage())
    # The run folder names the seed; a study would print this line for each of its runs.
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message=f".*{message}.*")
