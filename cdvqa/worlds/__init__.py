"""Embedded data sets, in the file formats of the real ones."""
