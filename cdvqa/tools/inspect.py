"""A config's model and data, built without weights, files or a run folder."""

import torch

from cdvqa.lightning_cli import VQACLI


class ConfigInspector(VQACLI):
    """Parse `--config … --OPTION …` as `fit` does, and build stage and data; the model has shapes but no memory."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(args, run=False)

    def instantiate_classes(self) -> None:
        with torch.device("meta"):
            self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self.config_init["data"]
        self.model = self.config_init["model"]
