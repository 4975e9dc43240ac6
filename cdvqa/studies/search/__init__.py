"""`cdvqa search`: which share of zeros each modality gets, at a given overall sparsity."""
