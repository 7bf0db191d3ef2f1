"""Training on the Hugging Face Trainer, with losses that never make the logits of a batch."""
