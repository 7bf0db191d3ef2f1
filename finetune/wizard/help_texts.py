"""What F1 and ? show about a question, and notes beside the values of a setting: for people who meet them for the first time.

    more_about("training.batch_size")           # "How many rows the model sees before ..."
    notes_of("training.scheduler")["linear"]    # "falls evenly"

A setting that is not in here (of a plugin's method) is explained by its own description.
"""

from __future__ import annotations

from collections.abc import Mapping

MORE = {
    "dataset.samples": (
        "Rows for training and for the test together. More rows teach more and take longer; a few hundred good ones are a fair start.\n"
        "all uses every row."
    ),
    "dataset.name": "The name on huggingface.co, as it is at the top of the dataset's page: owner/name.",
    "dataset.config": "Some datasets have several versions under one name. The page of the dataset lists them; none is right for most.",
    "dataset.encoding": (
        "Files from older programs use other encodings. If accents or other letters look wrong above, try the encoding of your "
        "country; the rows are shown again."
    ),
    "dataset.whole": "Yes if one column is what is asked and another is the answer. No if a single column holds the whole text.",
    "dataset.columns.text": "The column with the text that the model learns to write.",
    "dataset.columns.prompt": "The column with what the model is given: a question, an instruction, a text to summarise.",
    "dataset.columns.completion": "The column with what the model should answer.",
    "dataset.split": "The part of the dataset to learn from. Most datasets call it train.",
    "output_dir": (
        "The folder for the model and all records of the run. It is created if it does not exist; nothing in a folder that holds other "
        "work is ever overwritten."
    ),
    "training.epochs": (
        "How often the model goes through all rows. auto takes as many as a good model needs, within minutes. One pass is a first try; "
        "three teach most tasks.\nFar more, and the model memorises the rows."
    ),
    "training.batch_size": (
        "How many rows the model looks at before it changes once. Larger is steadier and needs more memory.\n"
        "If memory runs out during training, the program goes through each batch in smaller parts by itself."
    ),
    "dataset.max_length": "A token is about four letters. Longer rows are cut, and the report counts how many were.",
    "dataset.held_out": "The share of the rows that the model never learns from, so that they can show whether it got better.",
    "training.gradient_accumulation": (
        "Several batches are added up before the model changes: the effect of a larger batch without its memory. Usually 1."
    ),
    "training.scheduler": "The learning rate rises for a moment and then follows this shape until the end of the training.",
    "training.warmup": "The share of the training in which the learning rate rises from zero. It keeps the first steps from doing damage.",
    "training.keep": (
        "A model that trains for long memorises its rows and gets worse at all others. With best it is measured ten times on rows that it "
        "does not learn from, and kept as it was when it did best on them."
    ),
    "benchmark.metrics": (
        "rouge counts the words that answer and reference share, perplexity how well the model predicts the reference. For labels take "
        "accuracy (right except for case and spacing) or exact_match, for sums last_number: the last number of the answer is compared. "
        "With rouge they are counted too, without being asked for, where all answers are labels, JSON, SQL, sums or calls of tools."
    ),
    "benchmark.tasks": (
        "Tests that others use too, such as hellaswag, run on the model before and after, so that its numbers can be compared with theirs. "
        "Most need the Hub, and the large ones take long. A task file (.yaml) with rows of your own needs no network; it can run code, so "
        "use only one that you trust."
    ),
    "benchmark.task_rows": "Fewer rows of each task take less time, but only all of them give a number to compare with others.",
    "benchmark.max_new_tokens": "How long answers in the test may get. auto takes it from the answers in your data.",
    "benchmark.speed": "How fast the models answer and what memory they take, measured after the test. It adds about half a minute.",
    "seed": "Chance decides which rows are held out and in which order they come. The same number gives the same run again.",
    "distillation.objective": (
        "How far the student's probabilities are from the teacher's. forward_kl suits most runs; the others weigh likely and unlikely "
        "words differently."
    ),
    "distillation.supervise": "Whether the student imitates the teacher on every token or only on the answers.",
    "distillation.correct": (
        "Where the teacher's first choice is not the word in the data, the data's word is put ahead of it by this "
        "much. 0.2 is a usual value; use it if you trust your data more than the teacher."
    ),
    "distillation.on_policy.share": "The share of the rows of each step that the student writes itself, after the first epoch.",
    "distillation.on_policy.tokens": "Longer answers are cut off; if that happens to more than half of them, practice stops and says so.",
    "distillation.on_policy.refresh": "This many prompts are answered at once, then trained on. Fewer are fresher, more are faster.",
    "distillation.features.last": (
        "Besides the teacher's probabilities the student can imitate the hidden states behind them. 0.1 is a first try; it costs "
        "next to nothing and needs models of the same width. 0 leaves it out."
    ),
    "distillation.features.layers": (
        "The student's layers can imitate the teacher's on the way too. auto takes all layers from the first that was left out.\n"
        "The outputs of the teacher's layers are cached too, which takes disk space; it seldom helps."
    ),
    "distillation.features.relations": (
        "Which words look at which in the last layer: by queries (q), keys (k) or values (v), such as v or q, k, v; none leaves it out.\n"
        "It works for models of different widths. The teacher's are cached for every word of a row."
    ),
    "distillation.cache": (
        "The teacher runs once over all rows, and what it says is kept on the disk; every later pass reads it from there.\n"
        "auto takes the kind that is fastest for your run and fits on the disk. none keeps the teacher in memory instead."
    ),
    "distillation.across_tokenizers": (
        "A student with another tokenizer cuts the text into other tokens than its teacher. With projected the teacher reads the text in "
        "its own tokens, and the two are compared wherever both have read the same; the other tokens learn from the data alone.\n"
        "spans compares how likely each finds the same pieces of the text. It sees less of the teacher, and keeps very little on the disk."
    ),
    "distillation.until.step": "Fewer layers a round are gentler and take more rounds, each of which trains for all epochs.",
    "teacher.top_k": (
        "A server returns its likeliest tokens at each place of your rows, and all others count as one. More show the student more of "
        "its teacher and take longer to send; vLLM returns more than 20 only if it was started so (vllm serve MODEL --max-logprobs N)."
    ),
    "dataset.examples": (
        "A file of the kinds that a model can learn from, with a dozen rows (at least 3), each with a prompt and its answer. The "
        "model that writes the rows is shown a few of them each time, and writes more of that kind. none leaves it to the topic."
    ),
    "dataset.answers": (
        "data: the student learns the answers of your rows, besides what the teacher says about each token.\n"
        "teacher: the teacher first writes an answer of its own to every prompt; these take the place of the answers in your rows."
    ),
    "method.r": "The size of the add-on. Larger can learn more and needs more memory; 16 suits most tasks.",
    "method.alpha": "How strongly the add-on acts. Usually twice the rank.",
    "method.dropout": "The share of the add-on's inputs left out at random in each step. It keeps small data from being memorised.",
    "method.rslora": "Scales the add-on so that high ranks (64 and more) learn as well as low ones.",
    "method.dora": "Learns magnitude and direction of each weight separately: a little better, and slower.",
    "method.target_modules": "Which parts of the model get an add-on. auto takes all linear layers, which is best for most tasks.",
    "method.freeze": "Whether the embeddings and the output head stay as they are. auto does so for a student made from its teacher.",
    "upload": (
        "The model becomes a repository in your account on huggingface.co. You see what would be sent, and where, before anything is."
    ),
    "upload.repo": "A name in your own account, or organisation/name. A repository that does not exist yet is created.",
    "upload.private": "Only you, or those in the organisation, until you change it on the page of the repository; or everyone at once.",
    "upload.exists": "There is such a repository already. Nothing in it is changed unless you choose it.",
    "upload.gguf": "They are sent only if they have not changed since the export was checked.",
    "upload.now": "What is listed above is sent, and nothing else.",
    "sign_in": "Publishing needs an account on huggingface.co (free), and a token with write access from its settings.",
    "sign_in.token": "It goes straight to huggingface_hub, which keeps it for the next time; it is in no file or record of this program.",
    "recipe_file": "A file with all your answers. It runs without questions, on this machine or another.",
    "advanced": (
        "Length of rows, share held out, learning rate schedule, settings of the method, seed. No leaves all of them at values that work."
    ),
}
NOTES: dict[str, Mapping[str, str]] = {
    "training.scheduler": {
        "cosine": "falls slowly, then faster, then slowly; suits most runs",
        "linear": "falls evenly",
        "constant": "stays as it is",
        "constant_with_warmup": "rises at the start, then stays",
    },
    "training.keep": {"last": "those after the last step", "best": "those that were best on rows kept from training"},
    "distillation.cache": {
        "auto": "the fastest kind that fits on the disk",
        "none": "the teacher stays in memory and runs at every step",
        "hidden": "the teacher's last hidden states; for every objective",
        "gradient": "only what the gradient needs; smallest and fastest",
    },
    "distillation.across_tokenizers": {
        "none": "a teacher with another tokenizer is refused",
        "projected": "each token of the teacher counts as the student's token that begins it",
        "spans": "approximate: how likely both find the same pieces of the text",
    },
    "dataset.answers": {"data": "as they are", "teacher": "written first, minutes or more; your own are not used"},
    "distillation.round_teacher": {"first": "asked once for all rounds", "previous": "nearer to its student; asked again in each round"},
    "distillation.supervise": {"all": "prompts and answers", "answers": "answers only"},
    "method.freeze": {"auto": "where it makes sense", "none": "everything trains", "head": "embeddings and output head stay"},
}


def more_about(key: str) -> str:
    """A little more than the line of help; empty for keys without one. A question that is asked again has a number: -2."""
    return MORE.get(key.partition("-")[0], "")


def notes_of(key: str) -> Mapping[str, str]:
    """The notes beside the values of a setting."""
    return NOTES.get(key, {})
