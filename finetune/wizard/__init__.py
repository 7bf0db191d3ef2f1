"""The conversation: STEP 0 to 6, in the order of the files in this folder.

    recipe = ask_recipe(ScriptedPrompter({}, otherwise_default=True), look_around)      # Enter all the way

How a question is asked is in asking/, what steps ask about teachers in distilling/, about data in rows/.
Nothing here imports torch, transformers, datasets or peft before the run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.wizard import step0_approach

if TYPE_CHECKING:
    from collections.abc import Callable

    from finetune.recipe import Recipe
    from finetune.wizard.asking.prompter import Prompter
    from finetune.wizard.host import HostInfo


def ask_recipe(prompter: Prompter, look: Callable[[], HostInfo]) -> Recipe:
    """Steps 0 to 5; `look` is called after the first answer."""
    approach = step0_approach.ask(prompter)
    from finetune.recipe import Recipe
    from finetune.wizard import step1_models, step2_dataset, step3_config, step4_train, step5_benchmark
    from finetune.wizard.defaults import defaults

    here = look()
    draft = step1_models.with_own_teacher(defaults(here, approach))
    for step in (step1_models, step2_dataset, step3_config, step4_train, step5_benchmark):
        draft = step.ask(draft, prompter, here)
    return Recipe.from_layers(draft)
