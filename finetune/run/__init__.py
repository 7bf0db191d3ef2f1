"""A run: LLMFineTuner, its stages, and what is done with runs afterwards."""
