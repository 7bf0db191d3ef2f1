"""Names of scores, and their numbers as text: `number("agreement", 0.87)` is "87.0 %"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from finetune.benchmark.labels import as_label, reference_labels
from finetune.formatting import counted, ratio, strip_control_chars
from finetune.letters import is_unspaced
from finetune.registry import title

NAMES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "accuracy": "Right answers",
    "exact_match": "Exact match",
    "last_number": "Right numbers",
    "json_fields": "Fields right",
    "valid_json": "Valid JSON",
    "copied": "Codes copied",
    "perplexity": "Perplexity",
    "kl": "KL to teacher",
    "agreement": "Same top token",
}
LOWER_IS_BETTER = ("perplexity", "kl")
RIGHT = ("accuracy", "exact_match", "last_number", "json_fields")
COUNTED = (*RIGHT, "valid_json", "copied")  # of answers, or what stands in them: each is right or wrong
PERCENT = (*COUNTED, "agreement")  # shares of rows or tokens
GROUP = "group"  # beside the scores of held-out rows: the same number for rows of one prompt, conversation or text
TASK_SCORE = "/"  # between the name of a task of lm-evaluation-harness and its metric: hellaswag/acc
EXPLAINED = {
    "accuracy": "the same as the reference, except for case, spacing and a full stop",
    "exact_match": "the same as the reference, letter by letter",
    "last_number": "the last number is that of the reference",
    "json_fields": "values of the reference's JSON that the answer's has too, at the same place",
}
MOST_LABELS, LONGEST_LABEL = 20, 40
FEWEST_ROWS = 8  # below, no interval holds its word (benchmarks/coverage.py): nothing is said
IN_SHORT = ("rougeL", *RIGHT, "perplexity")  # where there is no room for all
FEW_ENDLESS = 0.1  # of the answers: so few are not told
UNDECIDED = {"no evidence": "no evidence of a difference", "too few rows": "too few rows to judge"}


def is_task(metric: str) -> bool:
    """Whether a score is one of a task of lm-evaluation-harness."""
    return TASK_SCORE in metric


def about_tasks(scores: Mapping[str, Any]) -> list[str]:
    """What was run of each task, a sentence for each: a score on the first rows is not the one that others publish."""
    said = []
    for task in scores.get("tasks") or []:
        rows = f"the first {task['rows']:,} of {task['of']:,} rows" if task["rows"] < task["of"] else f"all {task['rows']:,} rows"
        examples = f"{counted(task['examples'], 'example')} first" if task["examples"] else "no examples"
        said.append(f"{task['task']}: {rows}, {examples}, without chat template, by lm-evaluation-harness {task['lm_eval']}.")
    return said


def number(metric: str, value: float) -> str:
    """A score, rounded to the digits that matter."""
    if metric in PERCENT:
        return f"{100 * value:.1f} %"
    if metric == "kl" or metric.startswith("rouge") or (is_task(metric) and abs(value) <= 1):
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 10_000 else f"{value:,.0f}"


def between(metric: str, low: float, high: float) -> str:
    """The ends of an interval: "[0.164, 0.251]", "[55.1, 64.9 %]"."""
    ends = number(metric, low), number(metric, high)
    return f"[{ends[0].removesuffix(' %')}, {ends[1]}]"


def signed(metric: str, difference: float) -> str:
    """A difference of two scores: "+0.150"."""
    return f"{'+' if difference >= 0 else '-'}{number(metric, abs(difference))}"


def in_order(metrics: list[str]) -> list[str]:
    """Known scores first, in the order of NAMES."""
    return sorted(metrics, key=lambda metric: [*NAMES, metric].index(metric))


def by_verdict(verdicts: Mapping[str, str]) -> dict[str, list[str]]:
    """{"better": ["ROUGE-L", "Perplexity"], "no evidence": ["ROUGE-1"]} of {metric: verdict}."""
    found: dict[str, list[str]] = {}
    for metric in in_order(list(verdicts)):
        found.setdefault(verdicts[metric], []).append(NAMES.get(metric, metric))
    return found


def retained(scores: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """What benchmark.json says of shares of the teacher's scores; older versions wrote some down where less is better."""
    return {metric: share for metric, share in (scores.get("retention") or {}).items() if metric not in LOWER_IS_BETTER}


def held_out(rows: int) -> str:
    """ "1 held-out row", "45 held-out rows"."""
    return counted(rows, "held-out row")


def independent(scores: Mapping[str, Any]) -> int:
    """How many rows say something of their own: all rows of one prompt, conversation or text count as one."""
    groups = (scores.get("per_row") or {}).get(GROUP)
    return len(set(groups)) if groups else int(scores["rows"])


def too_few(scores: Mapping[str, Any], judged: int | None = None) -> str:
    """Why nothing is said of scores on so few rows, empty where they are enough.

    `judged` is how many of them have what a score counts, such as a number.
    """
    rows, alone = int(scores["rows"]), independent(scores)
    if min(alone, alone if judged is None else judged) >= FEWEST_ROWS:
        return ""
    if alone < min(rows, FEWEST_ROWS):
        return f"Too few rows to judge: {counted(rows, 'row')} {of_only(alone)}; {FEWEST_ROWS} would do."
    some = f"{judged:,} of " if judged is not None and judged < rows else ""
    return f"Too few rows to judge: {some}{counted(rows, 'row', 'count' if some else '')}; {FEWEST_ROWS} would do."


def of_only(prompts: int) -> str:
    """ "with only 5 different prompts or texts"."""
    return f"with only {prompts} different prompts or texts" if prompts > 1 else "of a single prompt or text"


def shared(scores: Mapping[str, Any]) -> str:
    """How intervals take rows that belong together; empty where each is independent, or too few are."""
    rows, alone = int(scores["rows"]), independent(scores)
    if alone == rows or alone < FEWEST_ROWS:
        return ""
    return f"The {rows:,} rows have {alone:,} different prompts or texts; for the intervals, rows that share one count together."


def explained(metrics: Iterable[str]) -> list[str]:
    """What counts as right, a sentence for each score that needs one: "Exact match: the same as the reference, letter by letter."."""
    measured = list(metrics)
    return [f"{NAMES[name]}: {what}." for name, what in EXPLAINED.items() if name in measured]


def by_letters(scores: Mapping[str, Any]) -> str | None:
    """What ROUGE counts in answers of Chinese, Japanese, Thai and the like; None for others, or where it was not measured."""
    if "rougeL" not in scores["after"] or not is_unspaced(" ".join(row["reference"] for row in scores.get("generations") or [])):
        return None
    return "ROUGE counts letters in place of words, since these answers have no spaces between words."


def cut_short(scores: Mapping[str, Any]) -> str | None:
    """That some answers could not come out right, because they were cut; None where none was."""
    longest, most = scores.get("longest_reference"), scores.get("max_new_tokens")
    if not longest or not most or longest <= most or not {*RIGHT, "valid_json"} & scores["after"].keys():
        return None
    return f"Answers were cut after {most} tokens, but reference answers have up to {longest:,}: such long ones count as wrong."


def endless(scores: Mapping[str, Any]) -> str | None:
    """That answers were cut where their references end, as those of a model that repeats itself are; None where few were."""
    counts = scores.get("endless") or {}
    now = counts.get("after") or 0
    if not now or now <= FEW_ENDLESS * (rows := scores["rows"]):
        return None
    answers = f"{now:,} of {counted(rows, 'answer')}{_others(counts)}"
    return f"{answers} did not end within {scores['max_new_tokens']} tokens, though their references do."


def until_they_end(scores: Mapping[str, Any]) -> str:
    """What makes most answers end, where most are `endless`; else empty."""
    most, counts = scores["rows"] / 2, scores["endless"]
    if counts["after"] <= most:
        return ""
    if (counts.get("teacher") or 0) > most:
        return "Its teacher's do not end either: fine-tune the teacher first."
    return "Train for longer, or with more rows."


def _others(counts: Mapping[str, int | None]) -> str:
    """ " (before: 2, teacher: 3)", as far as they are known."""
    known = ", ".join(f"{side}: {counts[side]:,}" for side in ("before", "teacher") if counts.get(side) is not None)
    return f" ({known})" if known else ""


def by_label(scores: Mapping[str, Any]) -> str | None:
    """ "Right of each label: spam 2 of 9, ham 41 of 41. Always answering ham is right in 82 %."; None where answers are no labels."""
    right, rows = (scores.get("per_row") or {}).get("accuracy") or [], scores.get("generations") or []
    written = Counter(" ".join(strip_control_chars(row["reference"]).split()) for row in rows)
    shown = {as_label(label): label for label, _ in reversed(written.most_common())}  # in the spelling that most rows have
    labels = reference_labels(scores)
    of = Counter(labels)
    if len(right) != len(rows) or not 0 < len(of) <= min(MOST_LABELS, len(rows) / 2) or max(map(len, written)) > LONGEST_LABEL:
        return None
    if len(of) == 1:
        return f"All {len(rows):,} reference answers are {shown[labels[0]]}, so they do not show whether the model can tell labels apart."
    found = Counter(label for label, is_right in zip(labels, right, strict=True) if is_right)
    worst_first = sorted(of, key=lambda label: (found[label] / of[label], label))
    listed = ", ".join(f"{shown[label]} {found[label]} of {of[label]}" for label in worst_first)
    (commonest, rows_of_it), *_ = of.most_common(1)
    return f"Right of each label: {listed}. Always answering {shown[commonest]} is right in {share(rows_of_it / len(rows))}."


def share(value: float) -> str:
    """0.119 -> "12 %"."""
    return f"{100 * value:.0f} %"


def which_tokens(scores: Mapping[str, Any]) -> str:
    """What perplexity and KL are taken over; benchmarks of older versions do not say it."""
    tokens = {"all": "every token of the rows, prompts too", "answers": "the tokens of the answers"}
    return tokens.get(str(scores.get("tokens_counted")), "")


def codes_copied(scores: Mapping[str, Any]) -> str | None:
    """ "7 of 9 numbers and codes of the references (before: 2)"; None if the references have none."""
    each = (scores.get("per_row") or {}).get("codes") or []
    of, rows = sum(each), sum(1 for codes in each if codes)
    if not of:
        return None
    copied = {
        side: round(scores[side]["copied"] * of)
        for side in ("after", "before", "teacher")
        if (scores.get(side) or {}).get("copied") is not None
    }
    few = f", in {counted(rows, 'row')}: too few to judge" if rows < FEWEST_ROWS <= len(each) else ""
    return f"{copied['after']:,} of {of:,} numbers and codes of the references{_others(copied)}{few}"


def beside_the_teacher(scores: Mapping[str, Any]) -> str | None:
    """A distillation's perplexities in words: the student's beside its teacher's."""
    student, teacher = (float((scores.get(side) or {}).get("perplexity") or 0) for side in ("after", "teacher"))
    if not student or not teacher:
        return None
    verdict = (scores.get("against_teacher") or {}).get("perplexity", {}).get("verdict")
    both = f"{number('perplexity', student)} against {number('perplexity', teacher)}"
    if verdict in UNDECIDED:
        return f"{both}: {UNDECIDED[verdict]}"
    what = "these rows" if scores.get("tokens_counted") == "all" else "these answers"
    if student < teacher:
        return f"lower than the teacher's, {both}: the student predicts {what} better"
    return f"{ratio(student / teacher)} times the teacher's, {both}: the student predicts {what} less well"


def each_teacher(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of several teachers each with its part, and in words what it scores on its own rows; empty where there is one."""
    found = []
    for teacher in scores.get("teachers") or []:
        metrics = [metric for metric in in_order([name for name in teacher if name in NAMES]) if metric in IN_SHORT]
        values = ", ".join(f"{NAMES[metric]} {number(metric, teacher[metric])}" for metric in metrics)
        found.append((f"{teacher['source']} ({teacher['part']})", f"{values} on {teacher['rows']:,} rows" if values else ""))
    return found


def each_round(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of a student that was made in rounds each round, and in words what its student scores; empty where there is one training."""
    rounds = enumerate(scores.get("rounds") or [], 1)
    return [(f"Round {number}: {each['layers']} layers", f"{in_words(each['scores'])}{_decided(each)}") for number, each in rounds]


def _decided(each: Mapping[str, Any]) -> str:
    """What was kept in a round after which it was decided whether another follows."""
    if "kept" not in each:
        return ""
    return f"; keeps {share(each['kept'])} of its teacher on the validation rows{', the result' if each.get('result') else ''}"


def own_answers(scores: Mapping[str, Any]) -> str | None:
    """ "202 in 4 refreshes; 38 tokens on average, then 41; 3 % cut off, then 2 %; ..."; None without practice."""
    refreshes = scores.get("own_answers") or []
    if not refreshes:
        return None
    ends = [refreshes[0], refreshes[-1]][: len(refreshes)]
    told = {
        "{} tokens on average": [f"{each['tokens']:.0f}" for each in ends],
        "{} cut off": [share(each["cut"]) for each in ends],
        "{} of their 4-grams repeated": [share(each["repetition"]) for each in ends],
    }
    changes = [what.format(values[0]) + (f", then {values[1]}" if len(values) > 1 else "") for what, values in told.items()]
    times = f"{len(refreshes)} refresh{'es' if len(refreshes) > 1 else ''}"
    return f"{sum(each['answers'] for each in refreshes):,} in {times}; {'; '.join(changes)}"


def in_words(values: Mapping[str, float]) -> str:
    """ "Perplexity 14.2, KL to teacher 0.310"."""
    return ", ".join(f"{NAMES.get(metric, metric)} {number(metric, values[metric])}" for metric in in_order(list(values)))


def in_few_bits(spec: Mapping[str, Any] | None) -> str:
    """ "linear layers in Q4_0, embeddings and head in Q8_0" of `distillation.quantize`; empty for a student in full precision."""
    if not spec:
        return ""
    head = f", embeddings and head in {title('grids', spec['head'])}" if spec.get("head") else ", embeddings and head as they are"
    return f"linear layers in {title('grids', spec['format'])}{head}"


def measured_as(scores: Mapping[str, Any]) -> str:
    """How a student that was trained in few bits was measured; empty for others."""
    said = in_few_bits(scores.get("in_few_bits"))
    return f"The student, before and after, is measured as its file will be: {said}; the teacher in full precision." if said else ""


def how_counted(scores: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that a reader has to know: letters for words, labels, cut answers, what is right, tasks, few bits."""
    cut = [cut_short(scores), endless(scores)]
    said = [by_letters(scores), by_label(scores), *cut, *explained(scores["after"]), *about_tasks(scores), measured_as(scores)]
    return [sentence for sentence in said if sentence]
