"""Finished runs in other forms; each form is one file with a class that registry.py names."""
