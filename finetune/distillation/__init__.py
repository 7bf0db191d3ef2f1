"""Distillation: a small student learns the whole distribution of its teacher, from logits that are never all in memory."""
