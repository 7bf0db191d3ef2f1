"""What the files of a run say about it, for its model card.

RunFacts.of(RunFolder.of("./finetuned_model")).adapter        # True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.events import read_events
from finetune.model_folder import is_adapter, read_json
from finetune.models.saved_configs import ends_of
from finetune.run_folder import RunFolder


@dataclass(frozen=True)
class RunFacts:
    """What the files of a run state in addition to its recipe and scores; what is missing is left out of the card.

    `merged` is the merge.json of a run whose adapter was merged into its base, `continued` the continued.json of one that trained an
    earlier adapter further, `student` the student.json of one whose student was made from its teacher, `ends` the tokens at which its
    generation_config.json stops, `experts` whether it is an adapter of experts, and `exports` the files for other programs in its
    export.json.
    """

    adapter: bool
    training: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    merged: Mapping[str, Any] = field(default_factory=dict)
    continued: Mapping[str, Any] = field(default_factory=dict)
    ends: Sequence[int] = ()
    experts: bool = False
    student: Mapping[str, Any] = field(default_factory=dict)
    exports: Sequence[Mapping[str, Any]] = ()

    @property
    def relation(self) -> str:
        """The relation to the base model, in the Hub's words."""
        return "adapter" if self.adapter else "merge" if self.merged else "finetune"

    @classmethod
    def of(cls, folder: RunFolder) -> RunFacts:
        records = [record for record in read_events(folder.events) if record.get("event") == "training"]
        paths = (folder.data_report, folder.environment, folder.run / "merge.json", folder.continued, folder.student)
        data, environment, merged, continued, student = map(folder.known, paths)
        home, last = folder.output_dir, records[-1] if records else {}
        experts = is_adapter(home) and bool(read_json(home / "adapter_config.json").get("target_parameters"))
        return cls(is_adapter(home), last, data, environment, merged, continued, ends_of(home), experts, student, folder.exports)
