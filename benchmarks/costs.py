"""Do speed and memory of a teacher and its student come out the same way each time? Measured as at the end of a run, several times.

    pip install -e .[test]
    python benchmarks/costs.py --times 5

The student has 20 of the starter's 30 layers, 0.74 times its weights. Printed: each measurement, and whether the order ever turned round.
"""

from __future__ import annotations

import argparse
import tempfile

from finetune import LLMFineTuner, Recipe
from finetune.run.costs import measure_costs


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--times", type=int, default=5)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        short = {"dataset": {"samples": 40}, "training": {"epochs": 1}, "benchmark": {"rows": 6}}
        recipe = Recipe.from_layers({"approach": "distillation", "output_dir": f"{folder}/student", **short})
        finetuner = LLMFineTuner(recipe)
        sizes = finetuner.run().scores["size"]
        parameters = {side: sizes[side]["parameters"] for side in ("teacher", "after")}
        print(f"student: {parameters['after'] / parameters['teacher']:.2f} times the teacher's weights")
        slower = larger = 0
        for number in range(given.times):
            costs = measure_costs(finetuner.context, ("teacher", "after"), parameters)
            student, teacher = costs["after"], costs["teacher"]
            slower += student.tokens_per_second < teacher.tokens_per_second
            larger += (student.peak_memory_bytes or 0) > (teacher.peak_memory_bytes or 0)
            words = ", ".join(
                f"{name} {cost.tokens_per_second:.0f} tokens/s and {(cost.peak_memory_bytes or 0) / 1e6:.0f} MB"
                for name, cost in (("student", student), ("teacher", teacher))
            )
            print(f"{number + 1}: {words}", flush=True)
        print(f"student slower {slower} times, larger {larger} times, of {given.times}")


if __name__ == "__main__":
    main()
