"""Thresholds that give an exact number of zeros."""
