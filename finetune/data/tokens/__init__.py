"""From chat turns to the tokens and labels of a batch."""
