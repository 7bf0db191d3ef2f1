"""The Hugging Face Hub as a client: is it there, who is signed in, its models and data sets, its search, and what of it is on this disk."""
