"""What this machine is, has and does fast."""
