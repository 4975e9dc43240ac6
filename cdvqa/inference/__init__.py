"""Finished networks that answer: as one function of tensors, as a graph for other runtimes, and how fast each is."""
