"""Where the rows of a run come from: one file for each kind of source, `base.py` says what a source is."""
