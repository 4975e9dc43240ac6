"""Vision-language models behind one protocol, each in a file or folder of its own."""

from cdvqa.backbones.backbone import Backbone, LoadReport
from cdvqa.backbones.lxmert import Lxmert
from cdvqa.backbones.mplug import Mplug
from cdvqa.backbones.smrl import Smrl
from cdvqa.backbones.updn import UpDn
from cdvqa.backbones.visualbert import VisualBert
from cdvqa.objectives import Output, SequenceOutput

__all__ = ["Backbone", "LoadReport", "Lxmert", "Mplug", "Output", "SequenceOutput", "Smrl", "UpDn", "VisualBert"]
