"""Masks, thresholds and sparsity budgets: which weights become zero, and how the rest is kept."""

from cdvqa.presets import TieBreak
from cdvqa.sparsity.assignment import LXMERT_COUNTS, MODALITIES, Assignment, Group, Matrix, Sparsity, solve_budget
from cdvqa.sparsity.attach import attach_fixed_masks, attach_masks, dense_state, fold_masks, one_shot_masks
from cdvqa.sparsity.criteria import Criterion
from cdvqa.sparsity.files.read import NetworkFile
from cdvqa.sparsity.masks.mask import BinaryMask, FixedMask
from cdvqa.sparsity.masks.matrices import binary_masks, masks
from cdvqa.sparsity.reset import reset_thresholds
from cdvqa.sparsity.selection.threshold import (
    Rule,
    Selection,
    count_zeros,
    magnitude_scores,
    select_global_threshold,
    select_threshold,
)
from cdvqa.sparsity.statistics import MatrixReset, sparsity_by_matrix, sparsity_by_modality, summarise
from cdvqa.sparsity.subnetwork import Subnetwork

__all__ = [
    "LXMERT_COUNTS",
    "MODALITIES",
    "Assignment",
    "BinaryMask",
    "Criterion",
    "FixedMask",
    "Group",
    "Matrix",
    "MatrixReset",
    "NetworkFile",
    "Rule",
    "Selection",
    "Sparsity",
    "Subnetwork",
    "TieBreak",
    "attach_fixed_masks",
    "attach_masks",
    "binary_masks",
    "count_zeros",
    "dense_state",
    "fold_masks",
    "magnitude_scores",
    "masks",
    "one_shot_masks",
    "reset_thresholds",
    "select_global_threshold",
    "select_threshold",
    "solve_budget",
    "sparsity_by_matrix",
    "sparsity_by_modality",
    "summarise",
]
