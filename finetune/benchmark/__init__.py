"""Did the model get better? The same held-out rows before and after training, each score with its 95 % interval."""
