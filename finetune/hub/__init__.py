"""Giving a finished model to the Hugging Face Hub: the model card and the upload."""
