"""The loss of a batch: in chunks, by one kernel, of mixtures of experts, and what settings change of it."""
