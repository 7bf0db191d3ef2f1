"""What a training leaves: the model on disk, and its scores beside those of what it came from.

save_model(context, model, folder)
scores = final_scores(context, model, folder, before=before)       # the content of run/benchmark.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from finetune.benchmark.report import write_report
from finetune.benchmark.scoring import Scores, benchmark_json
from finetune.data.tokens.plain_in_jinja import template_for_others
from finetune.distillation.grids.quantised import is_quantised, settle
from finetune.events import BenchmarkFinished, Notice, OwnAnswers, RanksSettled, read_events
from finetune.hardware.machine import torch_dtype
from finetune.model_folder import is_adapter
from finetune.models.saved import complete
from finetune.publish.card import write_card
from finetune.recipe.teacher_settings import OneTeacherSpec, part_of
from finetune.registry import title
from finetune.run.baselines import TeacherScores, measure
from finetune.run.costs import measure_costs
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.training.head import padding_id

OF_A_ROUND = ("perplexity", "kl", "agreement")


def save_model(context: RunContext, model: Any, folder: RunFolder) -> None:
    """Write the trained weights (an adapter, or the whole model) and the tokenizer; raises DiskFull."""
    if is_quantised(model):
        settle(model)  # what the file will hold, in 32 bits: fewer cannot say it exactly
    elif not hasattr(model, "peft_config"):
        # Training kept float32; what is saved, and measured afterwards, is what the machine runs. Buffers such as the frequencies of
        # rotary positions stay in float32, as from_pretrained leaves them.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch_dtype(context.machine))
    with folder.whole_model(needed=_bytes_to_save(model)) as partial:
        context.method.save(model, partial)
        (partial / folder.card.name).unlink(missing_ok=True)  # peft's form to fill in; ours comes with the scores
        base = context.base_located if hasattr(model, "peft_config") else None
        report, pad = context.data.report, padding_id(context.tokenizer, model)
        asked: dict[str, Any] = {"chat": report.template == "chat", "template": template_for_others(report.to_dict(), context.tokenizer)}
        complete(partial, context.tokenizer, source=context.located, base=base, pad=pad, **asked)


def final_scores(
    context: RunContext, model: Any, folder: RunFolder, *, before: Scores, taught: TeacherScores | None = None
) -> dict[str, Any]:
    """benchmark.json: the result beside the base model, or beside the teacher and the student it was before."""
    teacher = taught.one if taught else None
    if said := read_otherwise(folder.known(folder.data_report).get("format"), context.data.report.format):
        context.reporter.report(Notice(said, "warning"))
    with context.stage("after", "Measuring the new model"):
        after = measure(context, model, "after", **({"teacher": teacher.states} if teacher else {}))
    sizes = {"after": sum(file.stat().st_size for file in folder.output_dir.glob("*.safetensors"))}
    if teacher and not is_adapter(folder.output_dir):  # what its parameters take in the same dtype; an adapter's file says nothing of it
        sizes["teacher"] = round(sizes["after"] / after.parameters * teacher.parameters)
    beside = {"teacher": teacher} if teacher else {"before": before}  # what a person would use instead
    parameters = {name: scores.parameters for name, scores in {**beside, "after": after}.items()}
    costs = measure_costs(context, list(parameters), parameters) if context.recipe.benchmark.speed else {}
    scores = benchmark_json(before, after, teacher, bytes_on_disk=sizes, costs=costs)
    if taught and len(taught.each) > 1:
        scores["teachers"] = [_one_of_several(*each) for each in zip(context.recipe.teachers or [], taught.each, strict=True)]
    scores["measured_on"] = measured_on(context)
    if kept := (folder.read_json(folder.progress).get("training") or {}).get("kept"):
        scores["kept"] = kept
    if spec := context.recipe.distillation.quantize:
        scores["in_few_bits"] = spec.model_dump()
    if context.recipe.distillation.rounds:
        rounds = folder.finished_rounds()
        if context.recipe.distillation.until is None:  # else the last is among them, and the result need not be the last
            rounds = [*rounds, {"layers": context.recipe.distillation.rounds[-1], "scores": after.values}]
        scores["rounds"] = [_of_a_round(each) for each in rounds]
    events = read_events(folder.events)
    if context.recipe.distillation.practice:
        written = [record for record in events if record.get("event") == OwnAnswers.name]
        scores["own_answers"] = [{each.name: record[each.name] for each in fields(OwnAnswers)} for record in written]
    ranks = [record["ranks"] for record in events if record.get("event") == RanksSettled.name]
    return scores | ({"ranks": ranks[-1]} if ranks else {})


def write_scores(context: RunContext, folder: RunFolder, scores: dict[str, Any]) -> None:
    """Into run/benchmark.json, the report page and the card, and to whoever listens."""
    folder.write_json(folder.benchmark, scores)
    context.reporter.report(BenchmarkFinished(scores))
    write_card(folder)
    write_report(folder)


def read_otherwise(then: str | None, now: str) -> str | None:
    """That a run learned its rows in another format than they have now: its file or this version is another one, and so are its scores."""
    if then in (None, now):
        return None
    learned, measured = (title("formats", name) for name in (then, now))
    return (
        f"The run learned its rows as {learned}, and they are now read as {measured}. "
        "To measure what it learned, name dataset.columns in its run/recipe.yaml."
    )


def _of_a_round(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What benchmark.json says of a round; `kept` and `result` where it was decided after each whether another follows."""
    scores = {name: value for name, value in entry["scores"].items() if name in OF_A_ROUND}
    return {"layers": entry["layers"], "scores": scores} | {name: entry[name] for name in ("kept", "result") if name in entry}


def _one_of_several(spec: OneTeacherSpec, scores: Scores) -> dict[str, Any]:
    """What benchmark.json says of one of several teachers, on its own rows where it has some."""
    return {"source": spec.source, "part": part_of(spec), "rows": scores.rows, **scores.values}


def measured_on(context: RunContext) -> dict[str, Any]:
    """What speed and memory depend on beside the models and the threads."""
    machine = context.machine
    processor = machine.gpu if context.whole_on == "cuda" else machine.cpu
    return {"processor": processor, "device": context.whole_on, "dtype": machine.dtype}


def _bytes_to_save(model: Any) -> int:
    """About the size of a model on disk: of its adapter, or of everything."""
    return sum(
        parameter.numel() * parameter.element_size()
        for parameter in model.parameters()
        if parameter.requires_grad or not hasattr(model, "peft_config")
    )
