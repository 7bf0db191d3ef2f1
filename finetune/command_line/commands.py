"""The commands: fill a recipe, run the engine, show the result.

run(parser().parse_args(["run", "recipe.yaml"]))        # 0
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.command_line.recipe_commands import import_config as import_config
from finetune.command_line.recipe_commands import recipe_file
from finetune.command_line.recipe_commands import recipes as recipes
from finetune.errors import BadInput, NoTerminal, UploadError
from finetune.screen.command_output import console_of as _console
from finetune.screen.command_output import show as _show

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.run.finetuner import RunResult
    from finetune.runtime import RuntimeOptions


def wizard(arguments: argparse.Namespace) -> int:
    """No command: ask, or with --yes take every default."""
    if arguments.version:
        print(f"finetune-cli {__version__}")
        return 0
    if arguments.yes:
        return with_defaults(arguments)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NoTerminal(
            "There is no terminal, so no questions can be asked.",
            hint="Use --yes to take every default, or `finetune-cli run RECIPE` to run a recipe.",
        )
    unasked = {"--set": arguments.set, "--output-dir": arguments.output_dir, "--json": arguments.json, "--nodes": arguments.nodes > 1}
    for flag, given in unasked.items():
        if given:
            raise NoTerminal(f"{flag} only works without questions.", hint=f"Add --yes, or answer the questions without {flag}.")
    if (arguments.device, arguments.dtype) != ("auto", "auto"):
        from finetune.hardware.machine import inspect

        inspect(_runtime(arguments))  # no question could mend what is not there
    from finetune.wizard.conversation import run_wizard

    return run_wizard(runtime=lambda: _runtime(arguments), plain=os.environ.get("TERM") == "dumb")


def with_defaults(arguments: argparse.Namespace) -> int:
    """The demo: the run of someone who presses Enter all the way."""
    from finetune.recipe import Recipe, is_self, merge, parse_override
    from finetune.wizard.defaults import defaults, why, with_epochs
    from finetune.wizard.distilling.teachers_run import below, sentence
    from finetune.wizard.host import look_around

    changes: dict[str, Any] = {"output_dir": arguments.output_dir} if arguments.output_dir else {}
    for override in arguments.set:
        changes = merge(changes, parse_override(override))
    runtime = _runtime(arguments)
    here = look_around(runtime)
    approach = str(changes.get("approach", "fine-tuning"))
    _tell(why(replace(here, hub=True)))  # whether the Hub is used is said where a model is looked for
    method = changes.get("method", "lora")
    kind = str(method.get("kind", "lora") if isinstance(method, dict) else method)
    found = below(changes)
    if found:
        _tell(sentence(found))
    usual = {**defaults(here, approach, method=kind, fresh_folder=False, itself=is_self(changes.get("teacher"))), **found}
    data = {"dataset": changes["dataset"]} if "dataset" in changes else {}
    recipe = Recipe.from_layers(with_epochs(merge(usual, data)), changes)
    return _execute(recipe, arguments, runtime)


def _tell(sentence: str) -> None:
    """On stderr; broken between words on a terminal, and not for a program."""
    from finetune.screen.console import people

    console = people(stderr=True)
    console.print(sentence, soft_wrap=not console.is_terminal)


def run(arguments: argparse.Namespace) -> int:
    """Run a recipe, or one for each combination where --set has several values."""
    from finetune.run.sweep import combinations

    load = _loader(arguments)
    if swept := combinations(arguments.set, load):
        from finetune.screen.sweep import run_sweep

        if arguments.nodes > 1:
            raise BadInput("A sweep trains on one node, and --nodes asks for several.", hint="Give each --set one value.")
        if arguments.fail_if_worse:
            raise BadInput("--fail-if-worse judges one run, and this is a sweep.", hint="Give each --set one value.")
        rows = run_sweep(swept, _runtime(arguments), _console(arguments))
        return _show(arguments, {"runs": [row.to_dict() for row in rows]})
    recipe = load(arguments.set)
    if arguments.fail_if_worse:
        from finetune.benchmark.fail_if_worse import check_gate

        check_gate(arguments.fail_if_worse, recipe)
    return _execute(recipe, arguments, _runtime(arguments))


def resume(arguments: argparse.Namespace) -> int:
    """Continue an interrupted run."""
    from finetune.run_folder import FINISHED, RunFolder
    from finetune.screen.live_run import resume as continue_run
    from finetune.screen.results import train_further

    folder = RunFolder.of(arguments.output_dir, hint="Name the output_dir of an interrupted run: `finetune-cli runs` lists them.")
    if arguments.node_rank:
        from finetune.recipe import Recipe

        recipe = Recipe.load(folder.recipe, layers=({"output_dir": str(folder.output_dir)},))
        return _serve(recipe, _runtime(arguments))
    if folder.stage != FINISHED:
        return _show_result(arguments, continue_run(arguments.output_dir, _runtime(arguments), _console(arguments)))
    console = _console(arguments)
    said = [f"The run in {folder.output_dir} is finished; there is nothing to resume."]
    if further := train_further(folder.output_dir):
        said.append(f"To train its result further: {further}")
    console.print("\n".join(said), soft_wrap=not console.is_terminal)
    if arguments.json:
        training = folder.known(folder.progress).get("training", {})
        _show(arguments, {"output_dir": str(folder.output_dir), "scores": folder.read_json(folder.benchmark), "training": training})
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Show what a run would cost; 1 where a problem would stop it."""
    from dataclasses import replace

    from finetune.screen.console import draws_nothing
    from finetune.screen.data import data_report
    from finetune.screen.plan_table import review
    from finetune.screen.reporter import working
    from finetune.system.paths import looking_at, typed_path

    recipe = _loader(arguments)(arguments.set)
    with looking_at(recipe.output_dir):
        typed_path(recipe.output_dir).exists()  # the plan says what is free on its disk
    console = _console(arguments)
    with working(console, brief="Planning") as reporter:
        from finetune.benchmark.harness import check_names
        from finetune.run.finetuner import LLMFineTuner
        from finetune.training.trackers import check_trackers

        tuner = LLMFineTuner(recipe, reporter=reporter, runtime=_runtime(arguments))
        _ = tuner.context.machine  # a device that is not there is said before anything is fetched
        found, report = tuner.plan(measure=arguments.measure), tuner.data.report.to_dict()
        of_recipe = (lambda: check_trackers(recipe.training.report_to), lambda: check_names(recipe.benchmark))
        for check in (tuner.folder.check_free, tuner.check_upload, *of_recipe):
            try:
                check()
            except (UploadError, BadInput) as error:
                found = replace(found, problems=[*found.problems, f"{error.message} {error.hint or ''}".strip()])
    pictures = (data_report(report, in_words=draws_nothing(console)), review(tuner.recipe, found))
    _show(arguments, {**found.to_dict(), "data": report}, *pictures)
    return 1 if found.problems else 0


def benchmark(arguments: argparse.Namespace) -> int:
    """Score a finished run again and keep the result in its run/benchmark.json, or with --data any models on any rows."""
    if arguments.data:
        from finetune.screen.measured import judged, measure

        console, judge = _console(arguments), arguments.fail_if_worse
        found, picture = measure(arguments.models, arguments.data, arguments.set, _runtime(arguments), console, judge=judge)
        return judged(found, judge, _show(arguments, found, picture))
    if len(arguments.models) > 1 or arguments.set:
        raise BadInput("Several models, or --set, need rows to measure on.", hint="Give them: --data FILE")
    from finetune.run_folder import RunFolder
    from finetune.screen.reporter import working
    from finetune.screen.results import samples, scores_table

    folder = RunFolder.of(arguments.models[0], hint="Give the folder of a run, or rows to measure it on: --data FILE")
    console = _console(arguments)
    with working(console, log=folder.debug_log) as reporter:
        from finetune.run.finetuner import LLMFineTuner
        from finetune.run.moved import told_if_moved

        tuner = LLMFineTuner.of_run(folder.output_dir, reporter=reporter, runtime=_runtime(arguments))
        if arguments.fail_if_worse:
            from finetune.benchmark.fail_if_worse import check_gate

            check_gate(arguments.fail_if_worse, tuner.recipe)
        with told_if_moved(folder):
            scores = tuner.benchmark()
    code = _show(arguments, scores, samples(scores, console.width), scores_table(scores, console.width))
    _judge(arguments, scores)
    return code


def upload(arguments: argparse.Namespace) -> int:
    """Show where it goes, then send it."""
    from finetune.publish.upload import upload_folder, upload_plan
    from finetune.recipe import Recipe
    from finetune.run_folder import RunFolder
    from finetune.screen.console import people
    from finetune.screen.reporter import working
    from finetune.screen.upload import upload_picture

    RunFolder.of(arguments.output_dir)
    spec = Recipe.from_layers({"upload": {"repo": arguments.repo, "private": not arguments.public}}).upload
    assert spec is not None
    console = people()
    with working(console, brief="Checking with the Hub"):
        planned = upload_plan(arguments.output_dir, spec, gguf=arguments.gguf)
    console.print(upload_picture(planned))
    with working(console, brief="Uploading") as reporter:
        done = upload_folder(arguments.output_dir, spec, reporter, gguf=arguments.gguf)
    console.print(f"  Uploaded: {done.url} ({'private' if done.private else 'public'})")
    return 0


def runs(arguments: argparse.Namespace) -> int:
    """List the runs in a folder, or compare two of them."""
    first, *others = arguments.folders or ["."]
    console = _console(arguments)
    if first == "compare" and (others or not Path(first).is_dir()):
        from finetune.run.comparison import compare
        from finetune.run.history import read_run
        from finetune.run.several import table_of
        from finetune.run_folder import RunFolder
        from finetune.screen.comparison import comparison_picture
        from finetune.screen.several import runs_table

        if len(others) < 2:
            raise BadInput(
                f"Two or more runs can be compared, not {len(others)}.", hint="finetune-cli runs compare A B, with the folders of two runs."
            )
        read = [read_run(RunFolder.of(folder).output_dir, folder) for folder in others]
        if len(read) > 2:
            rows = table_of(read)
            return _show(arguments, {"runs": [row.to_dict() for row in rows]}, runs_table(rows, console.width))
        compared = compare(*read)
        return _show(arguments, compared.to_dict(), comparison_picture(compared, console.width))
    from finetune.run.history import find_runs
    from finetune.screen.run_list import runs_picture

    if others:
        raise BadInput(f"One folder can be listed, not {len(arguments.folders)}.", hint="To compare two: finetune-cli runs compare A B")
    found = find_runs(first)
    return _show(arguments, {"runs": [run.to_dict() for run in found]}, runs_picture(found, first))


def chat(arguments: argparse.Namespace) -> int:
    """Chat with a finished model."""
    from finetune.run.moved import told_if_moved
    from finetune.run_folder import RunFolder
    from finetune.screen.chat import talk

    folder = RunFolder.of(arguments.output_dir)
    with told_if_moved(folder):
        talk(folder.output_dir, _runtime(arguments), both=arguments.both)
    return 0


def merge(arguments: argparse.Namespace) -> int:
    """Write adapter and base as one model, and say how close the two are."""
    from dataclasses import asdict

    from finetune import registry
    from finetune.formatting import percent, size
    from finetune.publish.usage import adapter_of, folder_commands
    from finetune.screen.reporter import working
    from finetune.screen.tables import to_copy
    from finetune.screen.wording import command_name
    from finetune.system.paths import typed_path
    from finetune.system.shell import quoted

    folder, default = adapter_of(arguments.output_dir)
    to = typed_path(arguments.to) if arguments.to else default
    console = _console(arguments)
    with working(console, log=folder.debug_log if folder.recipe.is_file() else None) as reporter:
        done = registry.load("exporters", "merged").export(folder, to, _runtime(arguments), reporter)
    same = f"Its logits differ by {percent(done.difference, 2)} of the largest, on {done.prompts} prompts."
    merged = f"Merged: {to} ({size(done.bytes)}, {done.dtype}).\n{same}"
    talk = {"Chat": f"{command_name()} chat {quoted(to)}"} if folder.recipe.is_file() else {}  # which is for runs
    uses = talk | folder_commands(to)
    return _show(arguments, asdict(done), merged, to_copy(uses.items(), console.width))


def export(arguments: argparse.Namespace) -> int:
    """Write the model for other programs, and show what was proven of the files."""
    from finetune.export.exporters import chosen
    from finetune.run_folder import RunFolder, beside
    from finetune.screen.exported import commands, exported_picture
    from finetune.screen.reporter import working
    from finetune.system.paths import typed_path

    folder = RunFolder.of(arguments.output_dir)
    exporter, options = chosen(arguments.to, arguments.limit)
    to = typed_path(arguments.to_dir) if arguments.to_dir else beside(folder.output_dir, exporter.ending)
    console = _console(arguments)
    with working(console, log=folder.debug_log) as reporter:
        done = exporter.export(folder, to, _runtime(arguments), reporter, **options)
    return _show(arguments, done.to_dict(), exported_picture(done), "", commands(done, console.width))


def doctor(arguments: argparse.Namespace) -> int:
    """Show facts about this machine."""
    from finetune.hardware.doctor import doctor_facts
    from finetune.screen.quiet import quiet
    from finetune.screen.tables import fact_list

    with quiet(None):
        facts = doctor_facts(_runtime(arguments))
    return _show(arguments, {name: value for name, value, _ in facts}, fact_list(facts))


def schema(arguments: argparse.Namespace) -> int:
    """What a recipe can contain, for editors and programs."""
    from finetune.recipe.schema import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))
    return 0


def completion(arguments: argparse.Namespace) -> int:
    """For the shell to read; how is in the first lines."""
    from finetune.command_line.completion import script

    print(script(arguments.shell), end="")
    return 0


def _show_result(arguments: argparse.Namespace, result: RunResult) -> int:
    """What `execute` and `resume` have not shown already."""
    code = _show(arguments, {"output_dir": str(result.output_dir), "scores": result.scores, "training": result.training})
    _judge(arguments, result.scores)
    return code


def _judge(arguments: argparse.Namespace, scores: dict[str, Any]) -> None:
    """With --fail-if-worse: raises BenchmarkError if the score is worse, and says so where it could not be judged."""
    metric = getattr(arguments, "fail_if_worse", None)
    if metric:
        from finetune.benchmark.fail_if_worse import gate

        if why := gate(scores, metric):
            print(why, file=sys.stderr)


def _loader(arguments: argparse.Namespace) -> Callable[[Sequence[str]], Recipe]:
    """The recipe that is named, for any --set."""
    from finetune.recipe import Recipe

    return Recipe.loader(recipe_file(arguments.recipe), ({"output_dir": arguments.output_dir},) if arguments.output_dir else ())


def _runtime(arguments: argparse.Namespace) -> RuntimeOptions:
    from finetune.runtime import RuntimeOptions, refuse_inside_torchrun, settle_folders

    refuse_inside_torchrun()
    chosen: dict[str, Any] = {"device": arguments.device, "dtype": arguments.dtype, "trust_remote_code": arguments.trust_remote_code}
    chosen |= {"processes": getattr(arguments, "nproc", None)}
    if hasattr(arguments, "nodes"):
        chosen |= {"engine": arguments.on, "nodes": arguments.nodes, "node_rank": arguments.node_rank, "rendezvous": arguments.rdzv}
        chosen["shard"] = arguments.shard
    runtime = RuntimeOptions(**chosen)
    settle_folders(runtime)
    return runtime


def _execute(recipe: Recipe, arguments: argparse.Namespace, runtime: RuntimeOptions) -> int:
    if runtime.node_rank:
        return _serve(recipe, runtime)
    from finetune.screen.live_run import execute

    return _show_result(arguments, execute(recipe, runtime, _console(arguments)))


def _serve(recipe: Recipe, runtime: RuntimeOptions) -> int:
    from finetune.engines.node import serve

    return serve(recipe, runtime, partial(print, file=sys.stderr))
