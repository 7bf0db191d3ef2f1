"""Methods: which weights train, and how. One file per method; base.py says what a method is."""
