"""What a teacher with another tokenizer needs: the bytes that each token stands for, and where two tokenizers have read the same text."""
