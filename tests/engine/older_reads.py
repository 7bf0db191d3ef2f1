"""What transformers 4 and peft of its time read in the folders that `test_older_readers.py` writes; runs in an environment with those.

python older_reads.py FOLDER            # a JSON object on stdout: largest difference of a logit, ids, stops, warnings

No file of the program is imported, and nothing of this file needs more than transformers, peft, torch and safetensors.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def read(case, kind):
    """One folder, as its card says it is loaded."""
    folder = case / kind
    wanted = load_file(case / "logits.safetensors")
    facts = json.loads((case / "facts.json").read_text())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Version 4 leaves the soft cap of Gemma 2's attention out otherwise.
        model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(input_ids=wanted["ids"]).logits
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    config = AutoConfig.from_pretrained(folder if kind != "adapter" else case / "model")
    return {
        "difference": float((logits - wanted[kind]).abs().max() / wanted[kind].abs().max()),
        "ids": tokenizer(facts["text"])["input_ids"] == facts["ids"],
        "chat": tokenizer.apply_chat_template(facts["turns"], tokenize=True) == facts["chat"],
        "stops": sorted(stops if isinstance(stops, list) else [stops]),
        "end": tokenizer.eos_token,
        "class": type(tokenizer).__name__,
        "dtype": str(config.torch_dtype if getattr(config, "dtype", None) is None else config.dtype),
        "warnings": sorted({str(each.message).splitlines()[0] for each in caught if "nexpected keyword" in str(each.message)}),
    }


def main():
    torch.set_num_threads(1)
    found = {}
    for case in sorted(path for path in Path(sys.argv[1]).iterdir() if (path / "logits.safetensors").is_file()):
        for kind in ("model", "adapter", "merged"):
            try:
                found[f"{case.name} {kind}"] = read(case, kind)
            except Exception as error:  # noqa: BLE001
                found[f"{case.name} {kind}"] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
