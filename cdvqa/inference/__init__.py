"""Inference with finished networks: one function of tensors, graphs for other runtimes, latency and memory."""
