"""A teacher's outputs for the rows of a run, kept on disk: which kind, how they are written, how they are read."""
