"""Small tokenizers that can write any text, made on the spot: byte-level (GPT-2, Llama 3) and SentencePiece-like (Llama 2)."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = ["the answer to the question is that all the rest stays the same\n\nHello there! def answer(question):\n    return 42\n"] * 20

CHATML = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = (
    "{{ '<s>' }}{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n\n' + (turn.content | trim) + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
INST = (  # no generation prompt; the answer follows the question directly; refuses system turns
    "{{ '<s>' }}{% for turn in messages %}{% if turn.role == 'user' %}{{ '[INST] ' + turn.content + ' [/INST]' }}"
    "{% elif turn.role == 'assistant' %}{{ ' ' + turn.content + '</s>' }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
THINKING = (  # opens the last answer with an empty thought, and cuts thoughts out of earlier ones
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' }}"
    "{% if turn.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' + turn.content }}"
    "{% elif turn.role == 'assistant' and '</think>' in turn.content %}{{ turn.content.split('</think>')[-1] }}"
    "{% else %}{{ turn.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
ENDLESS = (  # nothing marks the end of an answer
    "{% for turn in messages %}{{ '### ' + turn.role + ':\n' + turn.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
UNSTABLE = (  # the whole text does not begin with the prompt
    "{{ messages | length }} turns\n{% for turn in messages %}{{ turn.role + ': ' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TEMPLATES = {"chatml": CHATML, "trimmed": TRIMMED, "inst": INST, "thinking": THINKING, "endless": ENDLESS, "unstable": UNSTABLE}


def byte_level(template: str | None = None, *, bos: bool = False, eos: bool = True, corpus: list[str] = CORPUS) -> PreTrainedTokenizerFast:
    """With `bos`, every text is opened with <s>, as Llama 3 does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet))
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))])
    return _made(backend, template, eos)


def sentence_piece(template: str | None = None) -> PreTrainedTokenizerFast:
    """Marks the beginning of every text with a space of its own, and opens it with <s>."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<pad>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    alphabet = [*map(chr, range(32, 127)), "▁", "\n"]
    bytes_of_all = [f"<0x{byte:02X}>" for byte in range(256)]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + bytes_of_all, initial_alphabet=alphabet)
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))])
    return _made(backend, template, eos=True)


def _made(backend: Tokenizer, template: str | None, eos: bool) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    names = {"pad_token": "<pad>", "bos_token": "<s>", **({"eos_token": "</s>"} if eos else {})}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)
    made.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    made.chat_template = template
    return made
