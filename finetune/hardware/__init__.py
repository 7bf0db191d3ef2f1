"""The machine: processor, memory, GPU, measured speed."""
