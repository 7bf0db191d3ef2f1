"""What each command does, as short as it can be said: fill a recipe, hand it to the engine, show what comes back.

run(parser().parse_args(["run", "recipe.yaml"]))        # 0
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.errors import BadInput, NoTerminal, UploadError

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
            "There is no terminal to ask questions on.",
            hint="Use --yes to take every default, or `finetune-cli run RECIPE` to follow a file.",
        )
    for flag, given in (("--set", arguments.set), ("--output-dir", arguments.output_dir), ("--json", arguments.json)):
        if given:
            raise NoTerminal(f"{flag} is for runs without questions.", hint=f"Add --yes, or answer the questions without {flag}.")
    from finetune.wizard.conversation import run_wizard

    return run_wizard(runtime=lambda: _runtime(arguments), plain=os.environ.get("TERM") == "dumb")


def with_defaults(arguments: argparse.Namespace) -> int:
    """The demo: the run of someone who presses Enter all the way."""
    from finetune.recipe import Recipe, merge, parse_override
    from finetune.wizard.defaults import defaults, why
    from finetune.wizard.host import look_around

    changes: dict[str, Any] = {"output_dir": arguments.output_dir} if arguments.output_dir else {}
    for override in arguments.set:
        changes = merge(changes, parse_override(override))
    runtime = _runtime(arguments)
    here = look_around(runtime)
    approach = str(changes.get("approach", "fine-tuning"))
    print(why(here), file=sys.stderr)
    method = changes.get("method", "lora")
    kind = str(method.get("kind", "lora") if isinstance(method, dict) else method)
    recipe = Recipe.from_layers(defaults(here, approach, method=kind, fresh_folder=False), changes)
    return _execute(recipe, runtime, arguments.json)


def run(arguments: argparse.Namespace) -> int:
    """Do what a recipe file says."""
    return _execute(_recipe(arguments), _runtime(arguments), arguments.json)


def resume(arguments: argparse.Namespace) -> int:
    """Do what is left of an interrupted run."""
    from finetune.run_folder import FINISHED, RunFolder
    from finetune.screen.console import people
    from finetune.screen.live_run import resume as go_on

    folder = RunFolder.of(arguments.output_dir)
    console = people(stderr=arguments.json)
    if folder.stage != FINISHED:
        return _show_json(go_on(arguments.output_dir, _runtime(arguments), console), arguments.json)
    console.print(f"The run in {folder.output_dir} is finished: there is nothing left to resume.", soft_wrap=True)
    if arguments.json:
        training = folder.read_json(folder.progress).get("training", {}) if folder.progress.is_file() else {}
        print(json.dumps({"output_dir": str(folder.output_dir), "scores": folder.read_json(folder.benchmark), "training": training}))
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Show what a run would cost."""
    from dataclasses import replace

    from finetune.paths import looking_at, typed_path
    from finetune.screen.console import people
    from finetune.screen.data import data_report
    from finetune.screen.plan_table import review
    from finetune.screen.quiet import quiet
    from finetune.screen.reporter import reporter_for

    recipe = _recipe(arguments)
    with looking_at(recipe.output_dir):
        typed_path(recipe.output_dir).exists()  # the plan says what is free on its disk
    console = people(stderr=arguments.json)
    with reporter_for(console, brief="Working out the plan") as reporter, quiet(None):
        from finetune.run.finetuner import LLMFineTuner

        tuner = LLMFineTuner(recipe, reporter=reporter, runtime=_runtime(arguments))
        found, report = tuner.plan(measure=arguments.measure), tuner.data.report.to_dict()
        try:
            tuner.check_upload()
        except UploadError as error:
            found = replace(found, problems=[*found.problems, f"{error.message} {error.hint or ''}".strip()])
    if arguments.json:
        print(json.dumps({**found.to_dict(), "data": report}, default=str))
    else:
        console.print(data_report(report, ascii_only=not console.encoding.startswith("utf")))
        console.print(review(recipe, found))
    return 0


def benchmark(arguments: argparse.Namespace) -> int:
    """Score a finished folder again and keep the result in its run/benchmark.json."""
    from finetune.run_folder import RunFolder
    from finetune.screen.console import people
    from finetune.screen.quiet import quiet
    from finetune.screen.reporter import reporter_for
    from finetune.screen.results import samples, scores_table

    folder = RunFolder.of(arguments.output_dir)
    console = people(stderr=arguments.json)
    with reporter_for(console) as reporter, quiet(folder.debug_log):
        from finetune.run.finetuner import LLMFineTuner

        scores = LLMFineTuner.of_run(folder.output_dir, reporter=reporter, runtime=_runtime(arguments)).benchmark()
    if arguments.json:
        print(json.dumps(scores, default=str))
    else:
        console.print(scores_table(scores, console.width), samples(scores, console.width))
    return 0


def upload(arguments: argparse.Namespace) -> int:
    """Show where it goes, then send it."""
    from finetune.publish.upload import upload_folder, upload_plan
    from finetune.recipe import Recipe
    from finetune.run_folder import RunFolder
    from finetune.screen.console import people
    from finetune.screen.quiet import quiet
    from finetune.screen.reporter import reporter_for
    from finetune.screen.upload import upload_picture

    RunFolder.of(arguments.output_dir)
    spec = Recipe.from_layers({"upload": {"repo": arguments.repo, "private": not arguments.public}}).upload
    assert spec is not None
    console = people()
    with reporter_for(console, brief="Asking the Hub"), quiet(None):
        planned = upload_plan(arguments.output_dir, spec)
    console.print(upload_picture(planned))
    with reporter_for(console, brief="Uploading") as reporter, quiet(None):
        done = upload_folder(arguments.output_dir, spec, reporter)
    console.print(f"  Uploaded: {done.url} ({'private' if done.private else 'public'})")
    return 0


def runs(arguments: argparse.Namespace) -> int:
    """The runs below a folder, or two of them side by side."""
    from finetune.screen.console import people

    first, *others = arguments.folders or ["."]
    console = people(stderr=arguments.json)
    found: Any
    if first == "compare" and (others or not Path(first).is_dir()):
        from finetune.run.comparison import compare
        from finetune.run.history import read_run
        from finetune.run_folder import RunFolder
        from finetune.screen.comparison import comparison_picture

        if len(others) != 2:
            raise BadInput(f"Two runs can be compared, not {len(others)}.", hint="finetune-cli runs compare A B, with two folders of runs.")
        found = compare(*(read_run(RunFolder.of(folder).output_dir, folder) for folder in others))
        shown, picture = found.to_dict(), comparison_picture(found, console.width)
    else:
        from finetune.run.history import find_runs
        from finetune.screen.run_list import runs_picture

        if others:
            raise BadInput(
                f"One folder can be listed, not {len(arguments.folders)}.", hint="To compare two runs: finetune-cli runs compare A B"
            )
        found = find_runs(first)
        shown, picture = {"runs": [run.to_dict() for run in found]}, runs_picture(found, first)
    if arguments.json:
        print(json.dumps(shown, default=str))
    else:
        console.print(picture)
    return 0


def chat(arguments: argparse.Namespace) -> int:
    """Talk to a finished model."""
    from finetune.run_folder import RunFolder
    from finetune.screen.chat import talk

    talk(RunFolder.of(arguments.output_dir).output_dir, _runtime(arguments), both=arguments.both)
    return 0


def merge(arguments: argparse.Namespace) -> int:
    """Write adapter and base as one model, and say how near the two are."""
    from dataclasses import asdict

    from finetune import registry
    from finetune.formatting import quoted, size
    from finetune.paths import typed_path
    from finetune.run_folder import RunFolder, beside
    from finetune.screen.console import people
    from finetune.screen.quiet import quiet
    from finetune.screen.reporter import reporter_for
    from finetune.screen.wording import command_name

    folder = RunFolder.of(arguments.output_dir)
    to = typed_path(arguments.to) if arguments.to else beside(folder.output_dir, "-merged")
    console = people(stderr=arguments.json)
    with reporter_for(console) as reporter, quiet(folder.debug_log):
        done = registry.load("exporters", "merged").export(folder, to, _runtime(arguments), reporter)
    if arguments.json:
        print(json.dumps(asdict(done)))
    else:
        same = f"logits differ by {done.difference:.2%} of the largest at most, on {done.prompts} prompts"
        console.print(f"  Merged: {to} ({size(done.bytes)}, {done.dtype}); {same}", soft_wrap=True)
        console.print(f"  Chat: {command_name()} chat {quoted(to)}", soft_wrap=True)
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Facts about this machine; 1 if something essential is missing."""
    from finetune.hardware.doctor import doctor_facts
    from finetune.screen.console import people
    from finetune.screen.quiet import quiet
    from finetune.screen.tables import fact_list

    console = people(stderr=arguments.json)
    with quiet(None):
        facts = doctor_facts(_runtime(arguments))
    if arguments.json:
        print(json.dumps({name: value for name, value, _ in facts}))
    else:
        console.print(fact_list(facts))
    return 0


def schema(arguments: argparse.Namespace) -> int:
    """What a recipe can hold, for editors and programs."""
    from finetune.schema import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))
    return 0


def completion(arguments: argparse.Namespace) -> int:
    """For the shell to read; how is in the first lines."""
    from finetune.shell_completion import script

    print(script(arguments.shell), end="")
    return 0


def _recipe(arguments: argparse.Namespace) -> Recipe:
    from finetune.recipe import Recipe

    layers = ({"output_dir": arguments.output_dir},) if arguments.output_dir else ()
    return Recipe.load(Path(arguments.recipe), overrides=arguments.set, layers=layers)


def _runtime(arguments: argparse.Namespace) -> RuntimeOptions:
    from finetune.runtime import RuntimeOptions

    return RuntimeOptions(device=arguments.device, dtype=arguments.dtype, trust_remote_code=arguments.trust_remote_code)


def _execute(recipe: Recipe, runtime: RuntimeOptions, as_json: bool) -> int:
    from finetune.screen.console import people
    from finetune.screen.live_run import execute

    return _show_json(execute(recipe, runtime, people(stderr=as_json)), as_json)


def _show_json(result: RunResult, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"output_dir": str(result.output_dir), "scores": result.scores, "training": result.training}, default=str))
    return 0
