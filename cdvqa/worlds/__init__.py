"""Embedded data sets, in the file formats of the real ones."""

from cdvqa.worlds.easyvqa import make_easyvqa
from cdvqa.worlds.scenes import make_scenes
from cdvqa.worlds.scenes_vs import make_scenes_vs

__all__ = ["make_easyvqa", "make_scenes", "make_scenes_vs"]
