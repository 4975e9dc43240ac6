"""A config's model and data, built without trained weights, files or a run folder."""

from typing import Literal, Optional

import torch
from pytorch_lightning.cli import LightningArgumentParser

from cdvqa.cli.parsing import naming_classes
from cdvqa.cli.training import VQACLI


class ConfigInspector(VQACLI):
    """Parse the options of `fit`, `test` or `predict` as they do.

    Args:
        args: `--config … --OPTION …`, without the command.
        command: what its help calls it, such as `cdvqa check`.
        description: what the command does, for its help.
        device: of the model; on `meta` it has shapes but no memory.
    """

    def __init__(
        self, args: list[str], command: str = "cdvqa", description: str = "", device: Literal["meta", "cpu"] = "meta"
    ) -> None:
        self._command, self._description, self._device = command, description, device
        super().__init__(args, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.prog, parser.description = self._command, self._description
        ckpt_path_help = "As in `test` and `predict`: run folder, network file or checkpoint to use, or `last`."
        parser.add_argument("--ckpt_path", type=Optional[str], default=None, help=ckpt_path_help)

    def instantiate_classes(self) -> None:
        with torch.device(self._device), naming_classes():
            self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self.config_init["data"]
        self.model = self.config_init["model"]
        self.datamodule.needs = self.model.needs
