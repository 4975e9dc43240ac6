"""Vision-language models behind one protocol, one room each."""

from cdvqa.backbones.backbone import Backbone, LoadReport, Output
from cdvqa.backbones.lxmert import Lxmert

__all__ = ["Backbone", "LoadReport", "Lxmert", "Output"]
