"""What a run will cost, before it starts, and what makes it fit."""
