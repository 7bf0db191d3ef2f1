"""What leaves a run: merged models, cards, uploads."""
