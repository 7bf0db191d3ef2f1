"""What is checked before the long work of a run.

check_settings(context, folder, resumed=False)      # raises the error that says what to change; asks no network
check_models(context)                               # the same of models and rows, which may be on the Hub
"""

from __future__ import annotations

from finetune import registry
from finetune.benchmark.harness import check_tasks, is_file, load_tasks, rows_of
from finetune.errors import BadInput, NotHere, RecipeError
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.runtime import refuse_inside_torchrun
from finetune.training.step_count import divided


def check_settings(context: RunContext, folder: RunFolder, *, resumed: bool) -> None:
    """What can be found without models and rows: the folder, the machine, the method, the trackers."""
    refuse_inside_torchrun()
    if context.runtime.node_rank:
        raise BadInput(
            "Only the first node does a whole run.", hint="On the others: finetune-cli run RECIPE --node-rank K, which only trains."
        )
    if not resumed:
        folder.check_free()
    for problem in context.method.check(context.recipe.method, context.machine.device):
        raise NotHere(problem)
    check_engine(context)
    check_tasks(context.recipe.benchmark)
    if context.recipe.training.report_to:
        from finetune.training.trackers import check_trackers

        check_trackers(context.recipe.training.report_to)


def check_models(context: RunContext) -> None:
    """What can be found of models and rows before any is loaded."""
    from finetune.planning.shape import shapes_of

    others = [each.pinned for each in context.teachers_located] if context.has_other_teacher else []
    if not context.recipe.head_settled and context.located.pinned in others:  # in few bits a model may imitate itself
        raise RecipeError(
            f"Teacher and student are the same model, {context.located.name}.",
            hint="Make a smaller one from it: --set model.from_teacher.layers=0.67, or keep it close to itself: --set teacher=self",
        )
    find_tasks(context)
    context.source.check(context)
    shapes_of(context)
    if context.recipe.grader:
        from finetune.run.grading import check_grading

        check_grading(context)


def check_upload(context: RunContext, folder: RunFolder, *, resumed: bool) -> None:
    """Raises UploadError, NotSignedIn, ReadOnlyToken or RepoExists if the result could not go where the recipe wants it uploaded."""
    if context.recipe.upload:
        from finetune.publish.upload import check_before_training

        adapter = context.method.footprint(context.recipe.method).adapter
        check_before_training(context.recipe, adapter=adapter, go_on=folder.output_dir if resumed else None)


def find_tasks(context: RunContext) -> None:
    """Load the tasks of the benchmark, if there are any, and say how many rows of each are measured.

    Task files are read anew: they may have changed since an earlier run of this process.
    """
    if tasks := context.recipe.benchmark.tasks:
        if any(map(is_file, tasks)):
            load_tasks.cache_clear()
        with context.stage("tasks", "Finding the tasks") as done:
            done(rows_of(load_tasks(tuple(tasks)), context.recipe.benchmark))


def check_engine(context: RunContext) -> None:
    """Raises NotHere for more processes than GPUs, RecipeError for a step that they cannot share, BadInput for what cannot work.

    A run in rounds trains several times, and the other nodes train once.
    """
    runtime, machine, processes = context.runtime, context.machine, context.processes
    registry.check_name("engines", context.engine)
    if runtime.engine == "ray":
        registry.load("engines", "ray").check(runtime)
    elif machine.device == "cuda" and processes > machine.gpus:
        raise NotHere(f"{processes} processes need a GPU each, and there are {machine.gpus}.", hint="--nproc auto takes all of them.")
    if machine.device == "mps" and processes > 1:
        raise NotHere("Only one process can use this machine's GPU.", hint="Leave --nproc out, or add --device cpu.")
    if context.engine == "here" and processes * runtime.nodes > 1:
        raise BadInput("The engine `here` trains in one process.", hint="Use --on torchrun, or leave --on out.")
    if runtime.shard == "yes":
        from finetune.planning.shards import problem

        if processes * runtime.nodes == 1:
            raise BadInput("One process cannot shard the weights.", hint="Use --nproc N, or leave --shard out.")
        if said := problem(context):
            raise RecipeError(said, hint="Leave --shard out, or use the method full or lora.")
    if context.alone and processes * runtime.nodes > 1:
        what, instead = context.alone
        raise RecipeError(f"{what} in one process.", hint=f"Use --nproc 1 and one node, or {instead}")
    if runtime.nodes > 1 and (key := context.recipe.distillation.in_rounds):
        raise BadInput("A run in several rounds trains on one node.", hint=f"Leave --nodes out, or distillation.{key}.")
    divided(context.recipe.training, processes * runtime.nodes)
