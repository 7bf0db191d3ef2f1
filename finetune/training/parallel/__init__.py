"""A training in several processes: what they tell each other, and models cut into shards."""
