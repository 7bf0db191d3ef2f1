"""finetune-cli: fine-tune or distil a language model from the terminal, with proof that it got better."""
