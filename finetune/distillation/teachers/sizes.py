"""A teacher that is smaller than its student was most likely meant to be the student.

swapped(11_616, 30_176)      # "The teacher (11,616 parameters) is smaller than the student (30,176). Did you swap them?"
"""

from __future__ import annotations

ALIKE = 0.8  # of the student's parameters: an earlier adapter and new tokens make it larger than a teacher of its own size


def swapped(teacher: int, student: int) -> str:
    """What to say of the parameters of the two; empty where nothing is wrong."""
    if teacher >= ALIKE * student:
        return ""
    return f"The teacher ({teacher:,} parameters) is smaller than the student ({student:,}). Did you swap them?"
