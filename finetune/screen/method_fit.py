"""Which method fits, in a line: "fits: LoRA 3.3 GB of 11.8 GB; QLoRA would need 1.3 GB".

fit_line("lora", {"lora": 3_300_000_000, "qlora": 1_300_000_000}, free=11_800_000_000)
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune.formatting import size
from finetune.registry import title


def fit_line(chosen: str, needed: Mapping[str, int], free: int) -> str:
    """What the chosen method needs of the free memory, and beside it the one that needs least, or the whole training if this is it."""
    verdict = "fits" if needed[chosen] <= free else "does not fit"
    least = min(needed, key=lambda name: needed[name])
    other = least if least != chosen else next((name for name in ("lora", "full") if name in needed and name != chosen), None)
    line = f"{verdict}: {title('methods', chosen)} {size(needed[chosen])} of {size(free)}"
    return f"{line}; {title('methods', other)} would need {size(needed[other])}" if other else line


def recommended(needed: Mapping[str, int], free: int) -> str:
    """LoRA where it fits; else QLoRA where that does; else whatever needs least."""
    return next((name for name in ("lora", "qlora") if name in needed and needed[name] <= free), min(needed, key=lambda name: needed[name]))
