"""The script of docs/chats.md makes rows of chats as WhatsApp, Telegram, Discord and Slack export them."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, blocks

SAID = [("Ann", "Hi"), ("Ann", "How are you?"), ("Ben", "Fine."), ("Cat", "And I?"), ("Ben", "You too.")]
WHATSAPP = ["[12/03/2024, 09:15:02] {}: {}", "12.03.24, 09:15 - {}: {}", "\u200e[3/12/24, 9:15:02\u202fAM] {}: {}"]
WHATSAPP += ["12/3/24, 9:15 a.\xa0m. - {}: {}", "[2024/3/12 上午9:15:02] {}: {}", "\u200f[١٢\u200f/٠٣\u200f/٢٠٢٤، ٩:١٥:٠٢ ص] {}: {}"]
ROW = [("user", "Hi\nHow are you?"), ("assistant", "Fine."), ("user", "And I?"), ("assistant", "You too.\nReally.")]


def telegram(who: str, text: str) -> dict[str, Any]:
    return {
        "type": "message",
        "date": "2024-03-12T09:15:02",
        "from": who,
        "from_id": f"user{who}",
        "text": [text] if who == "Ben" else text,
    }


def discord(who: str, text: str) -> dict[str, Any]:
    return {"type": "Default", "timestamp": "2024-03-12T09:15:02+00:00", "content": text, "author": {"id": "1", "name": who}}


def slack(who: str, text: str) -> dict[str, Any]:
    return {"type": "message", "user": who, "ts": "1710234902.1", "text": text, "user_profile": {"name": who}}


EXPORTS = {
    "telegram.json": {"name": "A chat", "messages": [telegram(*said) for said in SAID] + [telegram("Ben", "Really.")]},
    "discord.json": {"guild": {"id": "1"}, "messages": [discord(*said) for said in SAID] + [discord("Ben", "Really.")]},
    "slack.json": [slack(*said) for said in SAID] + [slack("Ben", "Really.")],
    **{
        f"_chat{number}.txt": "\n".join(
            [
                line.format("Ann", "\u200eMessages are end-to-end encrypted."),
                *(line.format(*said) for said in SAID),
                "Really.",
                line.format("Ann", "<Media omitted>"),
            ]
        )
        for number, line in enumerate(WHATSAPP)
    },
}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_script_makes_rows_in_which_one_person_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (page,) = [block for block in blocks(ROOT / "docs" / "chats.md") if block.title == "chat_rows.py"]
    script, export, rows = (tmp_path / each for each in (page.title, name, "rows.jsonl"))
    script.write_text(page.text, encoding="utf-8")
    content = EXPORTS[name]
    export.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [str(script), str(export), "Ben", str(rows)])
    runpy.run_path(str(script))
    (row,) = map(json.loads, rows.read_text(encoding="utf-8").splitlines())
    assert [(turn["role"], turn["content"]) for turn in row["messages"]] == ROW
