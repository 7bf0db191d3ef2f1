"""What was exported and what was proven of it, as a small table, and how other programs take it.

console.print(exported_picture(done))
console.print(commands(done, console.width))
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from finetune.export.record import Exported
from finetune.formatting import ratio, size
from finetune.screen.tables import block, pairs, to_copy
from finetune.screen.wording import as_typed

NOT_PROVEN = "not proven"


def exported_picture(done: Exported) -> RenderableType:
    """Proofs, then size and speed beside the original, then what to know."""
    parts: list[RenderableType] = [pairs(_proofs(done)), Text(""), _sizes(done)]
    if said := in_words(done):
        parts.append(Text(said, style="bold"))
    parts += [Text(as_typed(note), style="warning") for note in done.notes]
    return block(*parts, above=1)


def commands(done: Exported, width: int) -> Text:
    """Where the file is, and how each program takes it."""
    return to_copy([("Exported", str(Path(done.folder) / done.file)), *done.commands.items()], width)


def in_words(done: Exported) -> str:
    """ "6.0x smaller, 3.1x faster", as far as that is so; measured on this machine."""
    found = []
    for times, more, less in ((done.smaller, "smaller", "larger"), (done.faster, "faster", "slower")):
        if times is not None and not 0.95 < times < 1.05:
            found.append(f"{ratio(times, 1)}x {more}" if times > 1 else f"{ratio(1 / times, 1)}x {less}")
    return ", ".join(found) + (" than the original, measured here." if found else "")


def _proofs(done: Exported) -> list[tuple[str, Text | str]]:
    gate = done.gate
    rows: list[tuple[str, Text | str]] = []
    if gate.get("tensors") is not None:
        rows.append(("Weights read back", Text(f"{gate['tensors']} tensors, bit for bit", style="good")))
    if gate.get("exact"):
        rows.append(("Trained weights", Text(f"in the file as {done.type.upper()}, bit for bit", style="good")))
    if gate.get("texts") is not None:
        rows.append(("Tokens", Text(f"equal in {gate['texts']} texts", style="good")))
    if gate.get("chats") is not None:
        rows.append(("Chats", Text(f"{gate['chats']} rendered alike", style="good") if gate["chats"] else "no chat template"))
    if gate.get("difference") is not None:
        rows.append(("Largest difference", f"{gate['difference']:.3g} of a log-probability"))
    if gate.get("kl") is not None:
        rows.append(("KL divergence", f"{gate['kl']:.2g}"))
    if gate.get("logits") is not None:
        rows.append(("Logits", f"differ by at most {gate['logits']:.0e} of the largest"))
    if gate.get("same_top") is not None:
        rows.append(("Same top token", f"{gate['same_top']} of {gate['prompts']} prompts"))
    if done.exported is None:
        rows.append(("Probabilities, chats", Text(NOT_PROVEN, style="warning")))
    return rows


def _sizes(done: Exported) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("", "On disk", "Loads in", "Tokens/s"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, speed in (("Original", done.original), (done.type.upper(), done.exported)):
        if speed is None:
            table.add_row(name, size(done.bytes), "-", "-")
            continue
        rate = f"{speed.tokens_per_second:,.0f}" if speed.tokens_per_second else "-"
        table.add_row(name, size(speed.bytes), f"{speed.load_seconds:.2f} s", rate)
    return Group(table)
