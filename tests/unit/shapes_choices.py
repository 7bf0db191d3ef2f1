"""Shapes of multiple choice: what a row is, and what is learned of it.

CHOICES["SIQA"].row(0), CHOICES["SIQA"].learned(0)
"""

from __future__ import annotations

from typing import Any

from shapes import ASKED, Shape, a, u


def chosen(question: str, choices: str, right: int) -> list[dict[str, Any]]:
    listed = [f"{letter}. {text}" for letter, text in zip("ABCD", choices, strict=False)]
    return [u("\n".join([f"{question}\n", *listed])), a(listed[right])]


CHOICES: dict[str, Shape] = {
    "MMLU": Shape(
        lambda n: {"question": f"q{n}", "subject": "s", "choices": ["w", "x", "y", "z"], "answer": n % 4},
        lambda n: chosen(f"q{n}", "wxyz", n % 4),
        ("subject",),
        said="the right one is learned with its letter",
    ),
    "ARC": Shape(
        lambda n: {"id": f"i{n}", "question": f"q{n}", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "AB"[n % 2]},
        lambda n: chosen(f"q{n}", "xy", n % 2),
        ("id",),
    ),
    "ARC as AI2 gives it": Shape(
        lambda n: {
            "id": f"i{n}",
            "question": {"stem": f"q{n}", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
            "answerKey": "AB"[n % 2],
        },
        lambda n: chosen(f"q{n}", "xy", n % 2),
        ("id",),
    ),
    "HellaSwag": Shape(
        lambda n: {"ind": n, "ctx_a": "c", "ctx": f"q{n}", "endings": ["x", "y"], "label": str(n % 2)},
        lambda n: chosen(f"q{n}", "xy", n % 2),
        ("ind", "ctx_a"),
    ),
    "RACE": Shape(
        lambda n: {"article": f"c{n}", "question": f"q{n}", "options": ["x", "y", "z"], "answer": "C"},
        lambda n: chosen(f"c{n}\n\nq{n}", "xyz", 2),
    ),
    "MedMCQA": Shape(
        lambda n: {"question": f"q{n}", "opa": "x", "opb": "y", "opc": "z", "cop": n % 3, "exp": "e"},
        lambda n: chosen(f"q{n}", "xyz", n % 3),
        ("exp",),
    ),
    "WinoGrande": Shape(
        lambda n: {"sentence": f"q{n}", "option1": "x", "option2": "y", "answer": str(1 + n % 2)},
        lambda n: chosen(f"q{n}", "xy", n % 2),
    ),
    "SIQA": Shape(
        lambda n: {"context": f"c{n}", "question": f"q{n}", "answerA": "x", "answerB": "y", "answerC": "z", "label": str(1 + n % 3)},
        lambda n: chosen(f"c{n}\n\nq{n}", "xyz", n % 3),
    ),
    "COSMOS QA": Shape(
        lambda n: {"context": f"c{n}", "question": f"q{n}", "answer0": "x", "answer1": "y", "answer2": "z", "label": 1 + n % 2},
        lambda n: chosen(f"c{n}\n\nq{n}", "xyz", 1 + n % 2),
    ),
    "SWAG": Shape(
        lambda n: {"startphrase": f"c{n} q{n}", "sent1": f"c{n}", "sent2": f"q{n}", "ending0": "x", "ending1": "y", "label": n % 2},
        lambda n: chosen(f"c{n}\n\nq{n}", "xy", n % 2),
        ("startphrase",),
    ),
    "ReClor": Shape(
        lambda n: {"context": f"c{n}", "question": f"q{n}", "answers": ["x", "y", "z"], "label": n % 3},
        lambda n: chosen(f"c{n}\n\nq{n}", "xyz", n % 3),
    ),
    "DREAM": Shape(
        lambda n: {"dialogue": ["M: c", f"W: {n}"], "question": f"q{n}", "choice": ["x", "y", "z"], "answer": "y"},
        lambda n: chosen(f"M: c\n\nW: {n}\n\nq{n}", "xyz", 1),
    ),
    "choices beside an instruction": Shape(
        lambda n: {"instruction": "i", "input": f"q{n}", "options": ["x", "y"], "output": "AB"[n % 2]},
        lambda n: chosen(f"i\n\nq{n}", "xy", n % 2),
    ),
    "choices that the prompt lists": Shape(
        lambda n: {"prompt": f"q{n}\nA) x\nB) y", "choices": ["x", "y"], "completion": "AB"[n % 2]},
        lambda n: [u(f"q{n}\nA) x\nB) y"), a("AB"[n % 2])],
        ("choices",),
    ),
    "choices that the question only mentions": Shape(
        lambda n: {"question": f"Yes or No, {n}?", "choices": ["Yes", "No"], "answer": n % 2},
        lambda n: [u(f"Yes or No, {n}?\n\nA. Yes\nB. No"), a(["A. Yes", "B. No"][n % 2])],
    ),
    "answers that are all right": Shape(lambda n: {"question": f"q{n}", "answers": [f"a{n}", "x"], "label": 1}, ASKED),
    "BoolQ": Shape(
        lambda n: {"question": f"q{n}", "passage": f"c{n}", "answer": n == 1},
        lambda n: [u(f"c{n}\n\nq{n}"), a("true" if n == 1 else "false")],
    ),
    "COPA": Shape(
        lambda n: {"premise": f"c{n}", "choice1": "x", "choice2": "y", "question": "cause", "label": n % 2},
        lambda n: chosen(f"c{n}\n\ncause", "xy", n % 2),
    ),
    "contexts in objects": Shape(
        lambda n: {"query": f"q{n}", "answers": [f"a{n}"], "passages": {"is_selected": [1], "passage_text": ["c"]}}, ASKED, ("passages",)
    ),
    "contexts in a list": Shape(
        lambda n: {"question": f"q{n}", "contexts": ["c", f"d{n}"], "answer": f"a{n}"}, lambda n: [u(f"c\n\nd{n}\n\nq{n}"), a(f"a{n}")]
    ),
    "AQuA": Shape(
        lambda n: {"question": f"q{n}", "options": ["A)x", "B)y"], "rationale": "r", "correct": "B"},
        lambda n: chosen(f"q{n}", "xy", 1),
        ("rationale",),
    ),
    "choices in one text": Shape(
        lambda n: {"question": f"q{n}", "options": ["A. x\nB. y", "a ) x , b ) y"][n % 2], "answer": "AB"[n % 2]},
        lambda n: chosen(f"q{n}", "xy", n % 2),
    ),
    "choices that are numbers": Shape(
        lambda n: {"question": f"q{n}", "A": "1", "B": "2", "C": "3", "answer": f"{1 + n % 3}"}, lambda n: chosen(f"q{n}", "123", n % 3)
    ),
    "choices beside an explanation": Shape(lambda n: {"question": f"q{n}", "options": ["x", "y"], "answer": f"a{n}"}, ASKED, ("options",)),
    "a quiz in a spreadsheet": Shape(
        lambda n: {"Question": f"q{n}", "Option A": "x", "Option B": "y", "Option C": "", "Correct Answer": "b)"},
        lambda n: chosen(f"q{n}", "xy", 1),
    ),
    "several right choices": Shape(
        lambda n: {"question": f"q{n}", "choices": ["x", "y", "z"], "answer": ["A, C", "A,C"][n % 2]},
        lambda n: [chosen(f"q{n}", "xyz", 0)[0], a("A. x\nC. z")],
    ),
    "several right choices in a list": Shape(
        lambda n: {"question": f"q{n}", "choices": ["x", "y", "z"], "answers": [1, 3]},
        lambda n: [chosen(f"q{n}", "xyz", 0)[0], a("A. x\nC. z")],
    ),
    "SciQ": Shape(
        lambda n: {"question": f"q{n}", "distractor1": "x", "distractor2": "y", "correct_answer": f"a{n}"},
        ASKED,
        ("distractor1", "distractor2"),
    ),
}
