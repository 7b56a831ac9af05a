"""Noise corpora: what there is, what a recipe takes of it, and when."""
