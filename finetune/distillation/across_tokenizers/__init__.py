"""Distillation across tokenizers: the bytes of each token, and where two tokenizers cut a text at the same places."""
