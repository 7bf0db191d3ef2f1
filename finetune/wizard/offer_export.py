"""The offer to make a file for Ollama and LM Studio: after the benchmark, default no, only where it can be made and proven here."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import FinetuneError
from finetune.screen.console import people
from finetune.screen.reporter import working
from finetune.wizard.asking.prompter import Choice, Prompter, hint
from finetune.wizard.host import HostInfo

TYPES = (
    Choice("q8_0", "Q8_0", "half of f16; answers hardly ever change"),
    Choice("q4_k_m", "Q4_K_M", "small and fast, somewhat weaker"),
    Choice("f16", "F16", "nothing lost"),
)


def ask(output_dir: Path, prompter: Prompter, here: HostInfo) -> None:
    """Offer the export of a finished folder, and show what was proven of it."""
    from finetune.export.offer import in_reach, usual_type
    from finetune.export.quantising import has_llama_cpp

    if not (has_llama_cpp() and in_reach(output_dir, here.runtime)):
        return
    asked = prompter.confirm(
        "export",
        "Use it in Ollama or LM Studio?",
        default=False,
        help="Makes a .gguf file next to the output folder, and checks that llama.cpp answers with it as the model does.",
    )
    if asked:
        usual = usual_type(output_dir)
        types = [choice for choice in TYPES if choice.value == usual] or [Choice(usual, usual.upper(), "what the model was trained in")]
        types += [choice for choice in TYPES if choice.value != usual]
        _export(output_dir, prompter.select("export.type", "Which type?", types, default=usual), prompter, here)


def _export(output_dir: Path, type: str, prompter: Prompter, here: HostInfo) -> None:
    from finetune.export.to_gguf import GGUF
    from finetune.run_folder import RunFolder, beside
    from finetune.screen.exported import commands, exported_picture

    run = RunFolder.of(output_dir)
    try:
        with working(people(), "Exporting", log=run.debug_log) as reporter:
            done = GGUF.export(run, beside(run.output_dir, GGUF.ending), here.runtime, reporter, type=type)
    except FinetuneError as error:
        prompter.note([("class:problem", error.message), *hint(error)])
        return
    prompter.show(exported_picture(done))
    console = people()
    console.print(commands(done, console.width))
