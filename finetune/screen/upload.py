"""What would be uploaded, before it is.

console.print(upload_picture(upload_plan(output_dir, spec)))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from finetune.screen.tables import block, pairs
from finetune.screen.words import size

if TYPE_CHECKING:
    from finetune.hub.upload import UploadPlan


def upload_picture(plan: UploadPlan) -> RenderableType:
    """User, repository, visibility, endpoint and files."""
    target = plan.target
    largest = ", ".join(list(plan.files)[:3])
    rest = f" and {len(plan.files) - 3} more" if len(plan.files) > 3 else ""
    return block(
        pairs(
            [
                ("User", target.user),
                ("Repository", f"{target.repo} ({'exists, will be updated' if target.exists else 'new'})"),
                ("Visibility", Text("private") if target.private else Text("PUBLIC: everyone can see it", style="warning")),
                ("Endpoint", target.endpoint),
                ("Files", f"{largest}{rest}, {size(plan.bytes)}"),
            ]
        ),
        above=0,
    )
