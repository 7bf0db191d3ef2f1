"""Practice on the student's own answers: it writes, the teacher reads, and training goes on over what was written."""
