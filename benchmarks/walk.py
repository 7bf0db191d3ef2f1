"""The walk of a person with a file of their own: the wizard on a real terminal, a shop's support.csv, and Enter all the way.

    pip install -e .[test]
    python benchmarks/walk.py                 # fine-tune on 200 rows
    python benchmarks/walk.py --distil        # then make a smaller model of the result, on its own data
    python benchmarks/walk.py --elsewhere     # then load the result, merged too, where only transformers and peft are installed

Printed: the questions that were asked, the seconds of the whole walk, and the scores that the run wrote down.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import support

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "terminal"))
from screen import DOWN, ENTER, Terminal

ROWS = 200
LONGEST = 1800.0  # seconds
QUESTION = re.compile(r"^\? (.+?)(?:  |$)", re.MULTILINE)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--distil", action="store_true", help="then distil the result")
    arguments.add_argument("--elsewhere", action="store_true", help="then load it in an environment with only transformers and peft")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        support.write(place / "support.csv", ROWS)
        told(place / "finetuned_model", walk(place, {"Dataset": [DOWN]}))
        if given.elsewhere:
            elsewhere(place)
        if given.distil:
            told(place / "distilled_model", walk(place, {"What would": [DOWN]}))


def walk(place: Path, keys: dict[str, list[str]]) -> float:
    """Enter at every question, after the `keys` for some; the seconds from the start to the last question."""
    began, answered = time.perf_counter(), ""
    with Terminal(folder=place, rows=50) as terminal:
        while time.perf_counter() - began < LONGEST:
            alive = terminal.read(0.3)
            asked = QUESTION.findall(terminal.text())
            if asked and asked[-1] != answered:
                answered = asked[-1]
                print(f"{time.perf_counter() - began:6.1f} s  {answered}", flush=True)
                terminal.press(*next((extra for words, extra in keys.items() if answered.startswith(words)), []), ENTER)
            if not alive:
                print("\n".join(terminal.lines()))
                return time.perf_counter() - began
    sys.exit(f"not done after {LONGEST:.0f} seconds")


def told(model: Path, seconds: float) -> None:
    """What the run wrote down."""
    scores = json.loads((model / "run" / "benchmark.json").read_text(encoding="utf-8"))
    change = f"{scores['before']['rougeL']:.3f} -> {scores['after']['rougeL']:.3f}"
    print(f"{model.name}: {seconds:.0f} s; ROUGE-L {change} on {scores['rows']} rows")
    if scores.get("retention"):
        print(f"keeps {scores['retention']['rougeL']['value']:.0%} of its teacher")


ANSWER = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
asked = [{"role": "user", "content": "Where is my order 84731?"}]
prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print("ANSWER", repr(tokenizer.decode(model.generate(**prompt, do_sample=False, max_new_tokens=48)[0, prompt["input_ids"].shape[1]:])))
"""


def elsewhere(place: Path) -> None:
    """The adapter and the merged model answer in a new environment with a cache of its own."""
    program = str(Path(__file__).parents[1] / "finetune_cli.py")
    subprocess.run([sys.executable, program, "merge", "finetuned_model"], cwd=place, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "venv"], cwd=place, check=True)
    python = str(place / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "torch", "transformers", "peft"], cwd=place, check=True)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FINETUNE_CLI_CACHE")}
    for folder in ("finetuned_model", "finetuned_model-merged"):
        order, env = [python, "-c", ANSWER, folder], {**clean, "HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(order, cwd=place, env=env, capture_output=True, text=True, check=False)
        print(f"{folder}: {done.stdout.strip() or done.stderr[-600:]}", flush=True)


if __name__ == "__main__":
    main()
