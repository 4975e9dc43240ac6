"""Answers: vocabulary, normalisation, soft targets, priors, and answers as word pieces."""
