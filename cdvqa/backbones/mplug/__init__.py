"""mPLUG (Li et al., 2022): an image, a question, and an answer that is said word piece by word piece."""

from cdvqa.backbones.mplug.model import Mplug

__all__ = ["Mplug"]
