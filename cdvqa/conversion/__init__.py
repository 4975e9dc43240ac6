"""Converts region features to the one HDF5 file that cdvqa reads. Training never imports this."""
