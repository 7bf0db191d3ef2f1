"""Where a model comes from, its facts, and how it is loaded here.

    located = locate("HuggingFaceTB/SmolLM2-135M-Instruct", runtime, reporter)
    facts = describe(located)                                  # no torch
    machine = inspect(runtime)
    tokenizer, model = load_tokenizer(located), load_model(located, machine)

Import from the modules themselves: `location` and `facts` stay free of torch, `load` imports it at once.
"""
