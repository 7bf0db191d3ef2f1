"""Who teaches: models and caches, several at once, each its own rows, a model itself as it was, and corrected where it is wrong."""
