"""Region features of others, converted to the one HDF5 file that cdvqa reads. Training never imports this."""
