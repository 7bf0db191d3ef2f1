"""Where a run trains: in this process, or in several that torchrun starts, on one machine or more."""
