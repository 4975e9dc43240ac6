"""mPLUG (Li et al., 2022): a generative backbone that reads images and generates answers word piece by word piece."""

from cdvqa.backbones.mplug.model import Mplug

__all__ = ["Mplug"]
