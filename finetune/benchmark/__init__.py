"""Proof that a model got better: the same held-out rows before and after, each number with its 95 % interval."""
