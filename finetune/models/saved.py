"""Complete a saved folder, so that others load it as we do: tokenizer, configurations, end tokens, base.

    model.save_pretrained(folder)
    complete(folder, tokenizer, source=located, base=None, pad=0, chat=True)

Everything is read from files and written into files: the weights are not touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune.hub.cache import COMMIT
from finetune.models.load import tokenizer_home
from finetune.models.location import LocatedModel
from finetune.models.saved_configs import end_answers_with, ends_of, name_base, spell_out
from finetune.models.templates.chat_template import answer_end_ids
from finetune.models.tokenizer_files import save_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def complete(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    source: LocatedModel,
    base: LocatedModel | None,
    pad: int,
    chat: bool,
    template: str | None = None,
) -> None:
    """Finish a folder of weights that came from `source`; `base` is what an adapter belongs to.

    `pad` is an id for padding that the model has an embedding for, `chat` whether answers were trained in the chat template. Where they end
    with a token that the tokenizer does not call its end, that token is written down as one in both places where readers look. `template`
    is a chat template for other programs, where the tokenizer has none. Raises ModelError for files that cannot be read.
    """
    whole = source.home
    ends = [*ends_of(whole.folder), *ends_of(source.folder), *answer_end_ids(tokenizer)]  # a Trainer leaves the tokenizer's own only
    spell_out(folder, whole.folder)
    end_answers_with(folder, ends, pad=pad, source=whole.folder)
    if base is not None:
        name_base(folder, *public_name(base))
    end = _end_to_declare(tokenizer) if chat else None
    save_tokenizer(tokenizer, tokenizer_home(source).folder, folder, end=end, template=template)


def public_name(base: LocatedModel) -> tuple[str, str | None]:
    """What adapter_config.json calls a base: id and commit of the Hub, which are good anywhere, else its folder on this machine."""
    if base.source.kind == "hub" and base.revision and COMMIT.fullmatch(base.revision):
        return base.source.name, base.revision
    return str(base.folder), None


def _end_to_declare(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The one token that ends an answer in the chat template, if the tokenizer calls another its end; None also where it would not be safe.

    A template that writes the end token itself would then write another one.
    """
    others = [each for each in answer_end_ids(tokenizer) if each != tokenizer.eos_token_id]
    if len(others) != 1 or "eos_token" in str(tokenizer.chat_template):
        return None
    return str(tokenizer.convert_ids_to_tokens(others[0]))
