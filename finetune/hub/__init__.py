"""The Hugging Face Hub as a client: is it there, who is signed in, its models and datasets, its search, and its cache on this disk."""
