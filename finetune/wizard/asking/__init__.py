"""How a question is asked: at a terminal, as numbered lines or by a script; going back, completion, measures of text."""
