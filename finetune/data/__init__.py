"""From files and datasets to tokens: sources and readers -> formats -> held-out split -> tokens -> batches.

prepared = prepare_data(recipe.dataset, tokenizer, seed=42)     # finetune.data.prepare
prepared.train[0]["input_ids"], prepared.report.to_dict()
"""
