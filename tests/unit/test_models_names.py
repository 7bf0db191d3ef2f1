"""What a person may write for a model, and what each mistake is answered with."""

from pathlib import Path

import pytest

from finetune.errors import ModelError, ModelNotFound
from finetune.hub.catalogue import CATALOGUE, find
from finetune.models.location import parse


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("gpt2", "gpt2", None),
        (" org/My-Model.v1_2 ", "org/My-Model.v1_2", None),
        ("org/name@main", "org/name", "main"),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3"),
    ],
)
def test_a_hub_id_may_carry_a_revision(text: str, name: str, revision: str | None) -> None:
    source = parse(text)
    assert (source.kind, source.name, source.revision) == ("hub", name, revision)


@pytest.mark.parametrize("text", ["", "  ", "a\x07b", "a\nb", "org/\x1b[31mred", "x" * 2000, "org/na\u202eme"])
def test_empty_hostile_and_endless_names_are_refused_in_printable_words(text: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("text", ["gpt2@", "gpt2@../../etc", "gpt2@/etc/passwd", "gpt2@a b", "gpt2@a//b"])
def test_a_revision_cannot_leave_the_cache_folder(text: str) -> None:
    with pytest.raises(ModelError, match="is not a valid revision"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["../no_such_folder", "./no_such_folder", "/no/such/folder", "a/b/c", "org/../name", "~/no_such_folder", "C:\\models\\x"]
)
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(text: str) -> None:
    with pytest.raises(ModelNotFound, match="There is no folder"):
        parse(text)


def test_a_folder_named_like_a_hub_id_wins_only_if_it_holds_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert parse("gpt2").kind == "hub"
    (tmp_path / "gpt2" / "config.json").write_text("{}")
    assert parse("gpt2").kind == "folder"
    assert parse("./gpt2").path == (tmp_path / "gpt2").resolve()
    (tmp_path / "finetuned_model" / "run").mkdir(parents=True)
    (tmp_path / "finetuned_model" / "run" / "recipe.yaml").write_text("seed: 1\n")
    assert parse("finetuned_model").kind == "folder", "a run that was killed has no model yet"
    pinned = f"org/name@{'0123456789' * 4}"
    (tmp_path / pinned).mkdir(parents=True)
    (tmp_path / pinned / "config.json").write_text("{}")
    assert parse(pinned).kind == "hub", "whose code somebody has read, perhaps, and allowed"


def test_files_are_told_apart_by_what_they_can_be(tmp_path: Path) -> None:
    for name in ("model.gguf", "pytorch_model.bin", "model.safetensors", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    assert parse(str(tmp_path / "model.gguf")).kind == "gguf"
    with pytest.raises(ModelError, match="pickled"):
        parse(str(tmp_path / "pytorch_model.bin"))
    for other in ("model.safetensors", "notes.md"):
        with pytest.raises(ModelError, match="is a file, not a model"):
            parse(str(tmp_path / other))
    with pytest.raises(ModelNotFound, match="There is no file"):
        parse("missing.gguf")


def test_every_catalogue_entry_is_a_hub_id_that_can_be_found() -> None:
    assert len({entry.id for entry in CATALOGUE}) == len(CATALOGUE) >= 12
    for entry in CATALOGUE:
        assert parse(entry.id).kind == "hub"
        assert find(entry.id) is entry
        assert entry.parameters > entry.vocabulary * entry.hidden
    medium = find("gpt2-medium")
    assert medium is not None
    assert medium.layers == 24
    assert find("no-such-model") is None


@pytest.mark.parametrize("text", ["~nobodyhere/model", f"./{'m' * 300}"])
def test_a_path_that_cannot_be_looked_at_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        parse(text)
    assert text in caught.value.message
    assert caught.value.hint
