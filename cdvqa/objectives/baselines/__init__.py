"""Debiasing objectives of other papers, as their authors' code computes them; one file each."""
