"""Masks on weights: parametrizations, and the memory they use."""
