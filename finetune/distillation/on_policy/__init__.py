"""On-policy distillation: the student writes answers, and the teacher's distributions over them are what it trains on."""
