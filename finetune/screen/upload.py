"""What would be uploaded, before it is.

console.print(upload_picture(upload_plan(output_dir, spec)))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from finetune.formatting import size
from finetune.screen.tables import block, pairs

if TYPE_CHECKING:
    from finetune.publish.upload import UploadPlan

MOST_FILES = 14


def upload_picture(plan: UploadPlan) -> RenderableType:
    """User, repository, visibility, endpoint, each file with its size, largest first, and files of an earlier model that are removed."""
    target = plan.target
    files = sorted(plan.files.items(), key=lambda file: -file[1])
    shown = [f"{name} ({size(length)})" for name, length in files[:MOST_FILES]]
    more = [f"and {len(files) - MOST_FILES} more"] if len(files) > MOST_FILES else []
    facts: list[tuple[str, Text | str]] = [
        ("User", target.user),
        ("Repository", f"{target.repo} ({'exists, will be updated' if target.exists else 'new'})"),
        ("Visibility", Text("private") if target.private else Text("PUBLIC: everyone can see it", style="warning")),
        ("Endpoint", target.endpoint),
        ("Files", f"{len(files)}, {size(plan.bytes)} in all"),
        ("", Text("\n".join([*shown, *more]), style="quiet")),
        *([("Removed there", Text(", ".join(plan.removed), style="warning"))] if plan.removed else []),
        ("Not uploaded", "checkpoints, data, held-out rows, logs"),
    ]
    return block(pairs(facts))
