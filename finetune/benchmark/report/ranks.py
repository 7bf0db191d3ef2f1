"""The ranks that AdaLoRA ended with: in a sentence, and layer by layer as a table; darker cells have higher ranks.

ranks_in_words({"model.layers.0.self_attn.q_proj": 3, "model.layers.0.self_attn.v_proj": 11})
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from finetune.benchmark.report.html import Html, element, section


def ranks_in_words(ranks: Mapping[str, int]) -> str:
    """ "2 to 12 per layer, 8.0 on average; most in v_proj (10.4), least in k_proj (5.1)"."""
    means = {kind: sum(found) / len(found) for kind, found in _by_kind(ranks).items()}
    most, least = max(means, key=lambda kind: means[kind]), min(means, key=lambda kind: means[kind])
    return (
        f"{min(ranks.values())} to {max(ranks.values())} per layer, {sum(ranks.values()) / len(ranks):.1f} on average; "
        f"most in {most} ({means[most]:.1f}), least in {least} ({means[least]:.1f})"
    )


def final_ranks(ranks: Mapping[str, int]) -> Html:
    """Blocks downwards, kinds of matrices across; empty for a method with fixed ranks."""
    if not ranks:
        return Html()
    cells: dict[str, dict[str, int]] = {}
    for name, rank in ranks.items():
        block, kind = _place(name)
        cells.setdefault(block, {})[kind] = rank
    kinds = list(dict.fromkeys(_place(name)[1] for name in ranks))
    short = _short(kinds)
    corner = element("th", element("span", "block", class_="hidden"), scope="col")
    head = element("thead", element("tr", corner, *(element("th", short[kind], scope="col") for kind in kinds)))
    most = max(ranks.values()) or 1
    rows = [
        element("tr", element("th", block, scope="row"), *(_cell(found.get(kind), most) for kind in kinds))
        for block, found in cells.items()
    ]
    caption = element("caption", "Rank of each adapted matrix, by block", class_="hidden")
    whole = element("table", caption, head, element("tbody", *rows), class_="ranks")
    return section("Final ranks", element("p", f"{ranks_in_words(ranks)}."), whole, note="Each row is one block, from first to last.")


def _cell(rank: int | None, most: int) -> Html:
    if rank is None:
        return element("td")
    return element("td", str(rank), style=f"background:color-mix(in srgb, var(--accent) {45 * rank / most:.0f}%, transparent)")


def _by_kind(ranks: Mapping[str, int]) -> dict[str, list[int]]:
    """The ranks of q_proj, of k_proj and so on, from the first block to the last."""
    found: dict[str, list[int]] = {}
    for name, rank in ranks.items():
        found.setdefault(name.rpartition(".")[2], []).append(rank)
    return found


def _place(name: str) -> tuple[str, str]:
    """("3", "self_attn.q_proj") of model.layers.3.self_attn.q_proj."""
    found = re.match(r".*?\.?(\d+)\.(.+)$", name)
    return (found[1], found[2]) if found else ("", name)


def _short(kinds: list[str]) -> dict[str, str]:
    """The last part of a name without "_proj", or all of it where two would share a name."""
    last = {kind: kind.rpartition(".")[2].removesuffix("_proj") for kind in kinds}
    once = len(set(last.values())) == len(last)
    return last if once else {kind: kind.replace(".", " ") for kind in kinds}
