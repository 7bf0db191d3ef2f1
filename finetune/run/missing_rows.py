"""The rows that a teacher is to write before anything else, into the folder of the run, so that `resume` can go on with them.

write_missing_rows(context, folder, resumed=False, load=tuner.load_teacher_model)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune.errors import BadInput
from finetune.run.records import begin_records, open_records
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder


def write_missing_rows(context: RunContext, folder: RunFolder, *, resumed: bool, load: Callable[[], Any]) -> None:
    """Have them written into a folder that is claimed; unless the run is `resumed`, a teacher that cannot write leaves none behind.

    `load` loads the teacher.
    """
    try:
        open_records(context.reporter, folder)
        if not resumed:
            begin_records(context, folder)
        context.source.make(context, folder, load)
    except BadInput:
        if not resumed:
            folder.forget()
        raise
    finally:
        folder.release()
