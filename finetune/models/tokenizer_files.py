"""The tokenizer of a saved model: the files of the model it came from, byte for byte where nothing changed.

    save_tokenizer(tokenizer, source, folder, end=None)

Saved by transformers 5, a tokenizer loses the name of its class and gets keys that end in an error in transformers 4, such as a list of
`extra_special_tokens`. So the source's files are copied, and only what is different is changed. The copy is loaded and compared.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import ModelError
from finetune.foreign import leads_out, reading
from finetune.model_folder import AGAIN, TOKENIZER, VOCABULARIES, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG, MAP, FAST = "tokenizer_config.json", "special_tokens_map.json", "PreTrainedTokenizerFast"
TEMPLATE = "chat_template.jinja"
# Classes that only transformers 5 has; version 4 reads the same tokenizer.json with the class that takes it as it is.
ONLY_NEW = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend", "MistralCommonBackend")
NOT_FOR_OTHERS = ("backend", "is_local", "local_files_only")
PROBES = ("Hello, world! 12 + 3 = 15", "  naïve\n\n\tcafé — 日本語", "say cat a?")


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, source: Path, folder: Path, *, end: str | None = None, template: str | None = None
) -> None:
    """Write the files of `tokenizer`, which was loaded from `source`, into `folder`.

    `end` is the token that ends an answer, where the tokenizer has another for that: it is written down as the end if nothing else
    changes by it. `template` is the chat template of one that has none; the one that it had for other programs is kept. Raises ModelError
    for files that cannot be read.
    """
    for ending in dict.fromkeys((end, None)):
        if _copied(tokenizer, source, folder, ending) or _saved(tokenizer, folder, ending):
            break
    else:
        tokenizer.save_pretrained(folder)
    if template := template or getattr(tokenizer, "for_others", None):
        (folder / TEMPLATE).write_text(template, encoding="utf-8")


def _copied(tokenizer: PreTrainedTokenizerBase, source: Path, folder: Path, end: str | None) -> bool:
    """Whether copies of the source's files are this tokenizer."""
    names = [name for name in (CONFIG, *TOKENIZER) if (source / name).is_file()]
    if CONFIG not in names or not {*names} & {*VOCABULARIES} or read_json(source / CONFIG).get("auto_map"):
        return False  # a tokenizer with code of its own is more than these files
    if any(leads_out(source / name) for name in names):
        return False  # what it leads to may not be meant for others
    _clear(folder)
    for name in names:
        if name != TEMPLATE or tokenizer.chat_template:
            shutil.copyfile(source / name, folder / name)
    with reading(source, ModelError, hint=AGAIN):
        _settle(tokenizer, folder, end)
    return _is(tokenizer, folder, end)


def _saved(tokenizer: PreTrainedTokenizerBase, folder: Path, end: str | None) -> bool:
    """Whether what transformers writes is this tokenizer, once older versions can read it."""
    _clear(folder)
    tokenizer.save_pretrained(folder)
    if getattr(tokenizer, "_auto_map", None):
        return True
    _settle(tokenizer, folder, end)
    return _is(tokenizer, folder, end)


def _clear(folder: Path) -> None:
    for name in (CONFIG, *TOKENIZER):
        (folder / name).unlink(missing_ok=True)


def _settle(tokenizer: PreTrainedTokenizerBase, folder: Path, end: str | None) -> None:
    """The few keys that differ from the source, or that older versions cannot read; files without any stay as they are."""
    settings = read_json(folder / CONFIG)
    wanted = dict(settings)
    if settings.get("tokenizer_class") in (None, *ONLY_NEW):
        wanted["tokenizer_class"] = FAST if (folder / "tokenizer.json").is_file() else type(tokenizer).__name__
    if isinstance(settings.get("extra_special_tokens"), list):  # version 4 wants names for them, or takes them under their old name
        wanted["additional_special_tokens"] = wanted.pop("extra_special_tokens")
    for key in NOT_FOR_OTHERS:
        wanted.pop(key, None)
    if getattr(tokenizer, "legacy", False) and not settings.get("legacy"):  # version 5 reads this and does not write it
        wanted["legacy"] = True
    tokens = {"pad_token": tokenizer.pad_token, "eos_token": end or tokenizer.eos_token}
    wanted |= _changed(settings, tokens)
    if wanted != settings:
        write_json(folder / CONFIG, wanted)
    if (folder / MAP).is_file():
        known = read_json(folder / MAP)
        if changed := _changed(known, tokens):
            write_json(folder / MAP, {**known, **changed})


def _changed(settings: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
    """Those of the tokens that the settings do not have."""
    return {key: token for key, token in tokens.items() if token is not None and _content(settings.get(key)) != token}


def _content(token: Any) -> Any:
    """A token is text, or an object with its text and how it is cut."""
    return token.get("content") if isinstance(token, dict) else token


def _is(tokenizer: PreTrainedTokenizerBase, folder: Path, end: str | None) -> bool:
    """Whether the folder holds this tokenizer: the same vocabulary, template and ids, and its special tokens but for the end.

    Version 5 has classes of its own for some models, whatever a folder says; then the plain class, as version 4 uses it, must agree too.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with suppress(ModelError), reading(folder, ModelError, hint=AGAIN, what="cannot be loaded"):
        again = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        readers, probes = [again], (*PROBES, f"say{tokenizer.eos_token}cat")
        if type(again) is not PreTrainedTokenizerFast and read_json(folder / CONFIG).get("tokenizer_class") == FAST:
            readers.append(PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True))
        return (
            again.get_vocab() == tokenizer.get_vocab()
            and again.chat_template == tokenizer.chat_template
            and again.pad_token == tokenizer.pad_token
            and again.eos_token == (end or tokenizer.eos_token)
            and all(reader(text)["input_ids"] == tokenizer(text)["input_ids"] for text in probes for reader in readers)
        )
    return False
