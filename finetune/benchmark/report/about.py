"""The recipe, the training, the data, the environment, and the command that repeats the run.

asked(records), done(records), data(records), environment(records), repeat(records)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune.benchmark.names import in_few_bits
from finetune.benchmark.report.charts import bars, curve
from finetune.benchmark.report.html import Html, bullets, duration, element, facts, section, subsection, table
from finetune.benchmark.report.records import Records
from finetune.distillation.terms import in_words
from finetune.formatting import beside_ignored, count, counted, kept, percent, size, student_parts
from finetune.recipe import is_self
from finetune.recipe.distillation_settings import FeaturesSpec
from finetune.recipe.task_settings import task_words
from finetune.recipe.teacher_settings import TOP_K, grading_words, name_of, teachers_of
from finetune.registry import title
from finetune.run_folder import run_again
from finetune.training.kept_step import in_words as in_words_of_step

SKIPPED_SHOWN = 10


def headline(records: Records) -> str:
    """ "LoRA fine-tuning of MODEL on DATA · 24 November 2026"."""
    recipe, when = records.recipe, records.began
    parts = []
    if recipe:
        if recipe["approach"] == "distillation":
            what = f"{' and '.join(map(name_of, teachers_of(recipe)))} distilled into {model_of(recipe)}"
            what = f"{model_of(recipe)} distilled from itself" if is_self(recipe.get("teacher")) else what
            parts.append(f"{what} on {recipe['dataset']['source']}")
        else:
            parts.append(f"{title('methods', recipe['method']['kind'])} fine-tuning of {model_of(recipe)} on {recipe['dataset']['source']}")
    if when:
        day = datetime.fromtimestamp(when)
        parts.append(f"{day.day} {day:%B %Y}, {day:%H:%M}")
    return " · ".join(parts)


def model_of(recipe: Mapping[str, Any]) -> str:
    """The model that is trained, described in words."""
    model = recipe["model"]
    if isinstance(model, Mapping):
        return f"a student with {kept(model['from_teacher'])}"
    return str(model)


def teacher_of(recipe: Mapping[str, Any]) -> str:
    return " and ".join(map(_teacher, teachers_of(recipe)))


def _teacher(teacher: Mapping[str, Any]) -> str:
    source = "the model itself, as it was before the run" if is_self(teacher) else name_of(teacher)
    if teacher.get("server"):
        source = f"{source}, which returned {grading_words(teacher.get('top_k') or TOP_K)}"
    return f"{source}{_if(' in {}', teacher.get('load_in'))}{_if(', system prompt: {}', teacher.get('system'))}"


def method_in_words(method: Mapping[str, Any]) -> str:
    """ "LoRA: r 16, alpha 32, dropout 0.05, rslora" of the `method` of a recipe; what is off or automatic is not named."""
    settings = {key: value for key, value in method.items() if key != "kind" and value not in (None, "auto", False)}
    words = ", ".join(key if value is True else f"{key} {_plain(value)}" for key, value in settings.items())
    return f"{title('methods', method['kind'])}{_if(': {}', words)}"


def asked(records: Records) -> Html:
    """The recipe, summarised."""
    recipe = records.recipe
    if not recipe:
        return Html()
    training, dataset, method, benchmark = (recipe[key] for key in ("training", "dataset", "method", "benchmark"))
    rows, rate = training["batch_size"] * training["gradient_accumulation"], _plain(training["learning_rate"])
    listed = [
        ("Approach", str(recipe["approach"]).capitalize()),
        ("Teacher", teacher_of(recipe) if recipe["approach"] == "distillation" else ""),
        ("Model", model_of(recipe).capitalize() if isinstance(recipe["model"], Mapping) else model_of(recipe)),
        ("Student", student_parts(records.student)),
        ("Method", method_in_words(method)),
        ("Data", f"{dataset['source']}, {_if('at most {:,}', dataset['samples']) or 'all'} rows"),
        ("Rows", f"truncated at {dataset['max_length']:,} tokens; {percent(dataset['held_out'])} held out"),
        (
            "Training",
            f"{_times(training['epochs'])} over the data, {counted(rows, 'row')} per step, learning rate {rate}",
        ),
    ]
    if recipe["approach"] == "distillation":
        spec = recipe["distillation"]
        listed.append(("Good at", task_words(spec["task"]) if spec.get("task") else ""))
        objective = f"{spec['objective'].replace('_', ' ')} at temperature {spec['temperature']:g}"
        corrected = _if("; corrected by {:g} where the teacher's first choice is wrong", spec.get("correct"))
        listed.append(("Distillation", f"{objective}, {percent(spec['alpha'])} of the loss is from the text{corrected}"))
        if (own := spec.get("on_policy")) and own["share"]:
            of_own = f", {own['objective'].replace('_', ' ')}" if own["objective"] else ""
            replaced = f"{percent(own['share'])} of the rows after the first epoch"
            listed.append(("Own answers", f"{replaced}, of up to {own['tokens']:,} tokens, {own['refresh']:,} at a time{of_own}"))
        listed.append(("Learned in", in_few_bits(spec.get("quantize"))))
        listed.append(("Also compared", in_words(FeaturesSpec.model_validate(spec.get("features") or {}))))
    listed += [("Benchmark", f"{', '.join(benchmark['metrics'])} on {counted(benchmark['rows'], 'row')}"), ("Seed", str(recipe["seed"]))]
    return section("Recipe", facts(listed))


def done(records: Records) -> Html:
    """Time, tokens and memory of the training, its curves, and the time by stage."""
    training = records.training
    listed: list[tuple[str, str]] = []
    if training:
        share = training["trainable_parameters"] / max(1, training["parameters"])
        linear = f", {percent(records.linear_share, 1)} of the weights in linear layers" if 0 < records.linear_share < 1 else ""
        per_step = training["train_seconds"] / max(1, training["steps"])
        listed = [
            ("Steps", f"{training['steps']:,} in {duration(training['train_seconds'])}, {duration(per_step)} each"),
            ("Tokens", f"{training['real_tokens']:,} read, {training['supervised_tokens']:,} of them supervised"),
            ("Speed", f"{training['tokens_per_second']:,.0f} tokens/s; padding is not counted"),
            ("Peak memory", size(training["peak_memory_bytes"])),
            (
                "Trained",
                f"{count(training['trainable_parameters'])} of {count(training['parameters'])} parameters ({percent(share, 1)}){linear}",
            ),
            ("Threads", _fewer(training.get("steps_with_fewer_threads"))),
            ("Loss", f"first {training['first_loss']:.3f}, last {training['final_loss']:.3f}{_means(training['steps'])}"),
        ]
    listed.append(("Kept", in_words_of_step(training.get("kept"))))
    if records.alignment:
        listed.append(("Tokenizers", records.alignment))
    if records.checkpoints:
        listed.append(("Checkpoints", f"{records.checkpoints:,} saved during the run"))
    if after := records.resumed_after:
        listed.append(("Interrupted", f"and continued after step {', '.join(f'{step:,}' for step in after)}"))
    steps = records.steps
    loss = curve("Training loss", [(step["step"], step["loss"]) for step in steps], number=lambda value: f"{value:.2f}")
    held_out = curve("Held-out loss", records.held_out, number=lambda value: f"{value:.2f}", smooth=False)
    speed = [(step["step"], step["tokens_per_second"]) for step in steps]
    throughput = curve("Throughput", speed, number=lambda value: f"{value:,.0f}", unit="tokens/s", smooth=False)
    stages = [[title, duration(seconds)] for title, seconds in records.stages if seconds >= 0.05]
    where = subsection("Time by stage", table(["Stage", "Time"], stages, "Time of each stage") if stages else "")
    return section("Training", facts(listed), loss, held_out, throughput, where, subsection("Notes", bullets(records.warnings)))


def data(records: Records) -> Html:
    """Rows read, used and skipped, how long they are, and what was left out."""
    report = records.data
    if "read" not in report:
        return Html()
    parts = [(report["train"], "to train on"), (report["held_out"], "held out"), (report.get("deciding", 0), "for validation")]
    parts += [(report["skipped"], "skipped"), (report["blank"], "blank")]
    parts += [(sum(report.get("left_out", {}).values()), "left out"), (report.get("not_asked", 0), "not asked for")]
    parts += [(report.get("not_measured", 0), "of the other split not used")]
    length = report.get("length") or {}
    ignored = [*(f"{name} ({percent(share)} of the text)" for name, share in report.get("ignored_text", {}).items())]
    ignored += [name for name in report["ignored_columns"] if name not in report.get("ignored_text", {})]
    listed = [
        ("Source", report.get("pinned_source") or report["source"]),
        ("Rows", f"{report['read']:,} read: {', '.join(f'{number:,} {what}' for number, what in parts if number)}"),
        ("Format", f"{str(report['format']).replace('_', ' ')}: {', '.join(report['columns'])}"),
        ("Ignored columns", ", ".join(ignored)),
        ("Duplicates", f"{report['duplicates']:,} within training, kept" if report.get("duplicates") else ""),
        (
            "Leaks",
            f"{report['held_out_dropped']:,} held-out rows also occurred in training and were dropped"
            if report.get("held_out_dropped")
            else "",
        ),
        ("Tokens", f"{report['train_tokens']:,}, {percent(report['supervised_share'], 1)} of them supervised"),
        ("Length", f"median {length['p50']:,.0f} tokens, 90th percentile {length['p90']:,.0f}" if length else ""),
        (
            "Truncated",
            f"{counted(report['truncated'], 'sequence')} ({percent(report['truncated_share'], 1)})" if report.get("truncated") else "",
        ),
    ]
    skipped = [f"{row['file']}, line {row['line']}: {row['reason']}" for row in report.get("skipped_rows", [])[:SKIPPED_SHOWN]]
    left = report["skipped"] - len(skipped)
    if skipped and left > 0:
        skipped.append(f"and {left:,} more, in run/data_report.json")
    lengths = bars("Tokens in a sequence", report.get("histogram") or [])
    return section(
        "The data", facts(listed), lengths, subsection("Skipped rows", bullets(skipped)), bullets(beside_ignored(report.get("notes", [])))
    )


def environment(records: Records) -> Html:
    """Machine, versions and fingerprints."""
    found = records.environment
    if "machine" not in found:
        return Html()
    machine, model = found["machine"], found.get("model") or {}
    cores = [counted(machine[what], what[:-1]) for what in ("cores", "threads") if machine.get(what)]
    memory = f", {size(machine['gpu_memory_bytes'])}" if machine.get("gpu_memory_bytes") else ""
    listed = [
        ("System", str(found.get("system", ""))),
        ("Processor", f"{machine.get('cpu', '')}{', '.join(['', *cores])}"),
        ("Memory", size(machine["memory_bytes"]) if machine.get("memory_bytes") else ""),
        ("GPU", f"{machine['gpu']}{memory}" if machine.get("gpu") else "none"),
        ("Precision", f"{machine.get('dtype', '')}{_if(' ({})', machine.get('why_dtype'))}"),
        ("Model", f"{model.get('name', '')}{_if(', revision {}', model.get('revision'))}"),
        ("Note", str(model.get("note") or "")),
        ("Data fingerprint", str(found.get("dataset_fingerprint", ""))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (found.get("versions") or {}).items())),
    ]
    return section("The environment", facts(listed))


def repeat(records: Records) -> Html:
    """The command that runs the same recipe again."""
    command = run_again(records.output_dir, records.environment)
    return section("Repeat this run", element("pre", f"finetune-cli {command}"), note=_how_alike(records))


def _how_alike(records: Records) -> str:
    """What can be promised of a repetition."""
    machine = records.environment.get("machine") or {}
    if machine.get("device", "cpu") != "cpu":
        return "A GPU adds numbers in any order, so the scores of a repetition can differ a little."
    if records.training.get("steps_with_fewer_threads"):
        return "Other programs kept cores busy while this run trained, so its scores can differ a little from those of a quiet repetition."
    threads = machine.get("threads")
    alike = f" with {counted(threads, 'thread')} and the same versions" if threads else ""
    return f"On the same machine{alike} the same recipe gives the same scores."


def _fewer(steps: int | None) -> str:
    return f"fewer in {counted(steps, 'step')}, because other programs kept cores busy" if steps else ""


def _means(steps: int) -> str:
    """Of how many steps at each end a loss is the mean: five where there are ten."""
    each = min(5, steps // 2)
    return f" (means of {each} steps)" if each > 1 else ""


def _if(words: str, value: Any) -> str:
    """`words` with the value in them; empty if it is not known."""
    return words.format(value) if value else ""


def _times(epochs: float) -> str:
    return "once" if epochs == 1 else f"{epochs:g} times"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value).lower()
