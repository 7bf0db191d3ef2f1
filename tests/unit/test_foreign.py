"""Files from elsewhere: whatever is in them, reading one ends in a sentence with its name, soon and in little memory."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_models_folder import model_folder, refusal, write_safetensors
from written_run import written_run

from finetune.data.reading import read_rows
from finetune.errors import BadInput, BadRow, CannotResume, DatasetError, FinetuneError, ModelError, RecipeError
from finetune.events import Recorder
from finetune.foreign import LINE, UNPACKED, check_patterns, read_settings, read_small_yaml, reading, reason
from finetune.models.gguf_file import read_header
from finetune.recipe import DatasetSpec, Recipe
from finetune.run.history import UNREADABLE, find_runs
from finetune.run.resume import find
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system.paths import typed_path


@pytest.fixture
def runtime(tmp_path: Path) -> RuntimeOptions:
    return RuntimeOptions(cache_dir=tmp_path / "cache")


def refused_data(path: Path, runtime: RuntimeOptions) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        read_rows(DatasetSpec(source=str(path)), runtime, Recorder())
    assert path.name in caught.value.message
    return caught.value


class PanicException(BaseException):
    """What a library in Rust raises; its real class cannot be imported."""


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), RecursionError(), KeyError("size"), PanicException("lost"), MemoryError()])
def test_any_failure_becomes_one_sentence_with_the_name_of_the_file(error: BaseException) -> None:
    with pytest.raises(ModelError, match=r"(?m)^a\.bin cannot be read: .+\.$") as caught, reading("a.bin", ModelError):
        raise error
    assert "\n" not in caught.value.message


def test_what_is_no_failure_of_the_file_passes() -> None:
    for error in (KeyboardInterrupt(), SystemExit(1), BadRow("line 1 is bad.")):
        with pytest.raises(type(error)), reading("a.bin", ModelError):
            raise error
    assert reason(ValueError("first\nsecond")) == "first"


def test_an_error_never_floods_the_screen() -> None:
    assert len(FinetuneError("x" * 10**6).message) < 5000


def test_settings_that_take_many_times_their_size_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.foreign.SETTINGS_VALUES", 1000)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"text": "x" * 5000}))
    assert len(read_settings(path, ModelError)["text"]) == 5000
    path.write_text(json.dumps({"deep": [[]] * 2000}))
    with pytest.raises(ModelError, match=r"config\.json cannot be read as JSON: it has more than 1,000 values"):
        read_settings(path, ModelError)


# Recipes.

REPEATED = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)) + "license: *a11\n"


@pytest.mark.parametrize("text", [REPEATED, "license: &a [*a]", "license: &a {b: *a}"])
def test_yaml_whose_parts_repeat_each_other_without_end_is_refused_before_anybody_writes_it_out(text: str) -> None:
    with pytest.raises(ValueError, match="its parts repeat each other too often"):
        read_small_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "seed: 2024-02-31",
        f"seed: {'9' * 5000}",
        "training: " + "[" * 3000,
        "model: &a [*a]",
        "{? [a] : 1}",
        "seed: 4294967296",
        "\0",
        "a: 1\n" * 50_000,
        "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 30)),
        REPEATED,
    ],
    ids=["no date", "digits", "deep", "circle", "key", "seed", "control", "long", "merged keys", "repeated"],
)
def test_odd_recipes_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        Recipe.load(path)


def test_the_largest_seed_is_one_that_a_run_can_use() -> None:
    assert Recipe.from_layers({"seed": 2**32 - 1}).seed == 2**32 - 1
    with pytest.raises(RecipeError, match="seed must be less than 4294967296"):
        Recipe.from_layers({"seed": 2**32})


# Models.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10_000_000}, "num_hidden_layers = 1e+07"),
        ({"num_hidden_layers": 9_000}, "9,000 layers"),
        ({"text_config": {"n_layer": 10**9}}, "n_layer = 1e+09"),
        ({"num_labels": 10**9}, "num_labels"),
        ({"hidden_size": 9_000_000}, "a width of 9,000,000"),
        ({"architectures": 5}, "does not list its architectures"),
        ({"attn_implementation": "somebody/attention"}, "code from elsewhere (somebody/attention)"),
        ({"text_config": {"_attn_implementation": {"text_config": "somebody/attention@v1"}}}, "code from elsewhere"),
        ({"experts_implementation": "somebody/experts"}, "code from elsewhere"),
    ],
)
def test_settings_that_ask_for_too_much_are_refused_at_once(
    tmp_path: Path, runtime: RuntimeOptions, changes: dict[str, object], words: str
) -> None:
    began = time.process_time()
    assert words in refusal(model_folder(tmp_path / "model", **changes), runtime).message
    assert time.process_time() - began < 1


def test_deeply_nested_settings_are_refused(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "config.json").write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "nested too deeply" in refusal(folder, runtime).message


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-(10**30), 4]},
        {"dtype": "F32", "shape": "one", "data_offsets": [0, 4]},
        ["F32"],
    ],
)
def test_impossible_headers_of_safetensors_are_refused(tmp_path: Path, runtime: RuntimeOptions, entry: object) -> None:
    folder = model_folder(tmp_path / "model", num_hidden_layers=300)  # so many that the weights are looked at
    text = json.dumps({"a": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert "model.safetensors is not a readable safetensors file" in refusal(folder, runtime).message


def gguf(
    path: Path,
    *,
    dimensions: int = 1,
    alignment: tuple[int, bytes] = (4, struct.pack("<I", 32)),
    tensors: int = 1,
    entries: int = 2,
    array: bytes = b"",
) -> Path:
    """A GGUF file of one tensor, written by hand; `tensors` and `entries` are how many it claims, `array` a last entry of its metadata."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    kind, value = alignment
    written = string("general.architecture") + struct.pack("<I", 8) + string("llama")
    written += string("general.alignment") + struct.pack("<I", kind) + value
    if array:
        entries, written = entries + 1, written + string("tokenizer.ggml.scores") + struct.pack("<I", 9) + array
    tensor = string("t") + struct.pack(f"<I{dimensions}Q", dimensions, *[1] * dimensions) + struct.pack("<IQ", 0, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + written + tensor * min(tensors, 1) + bytes(4096))
    return path


def test_a_gguf_file_with_too_many_dimensions_or_an_impossible_alignment_is_refused(tmp_path: Path) -> None:
    assert read_header(gguf(tmp_path / "good.gguf")).parameters == 1
    began = time.process_time()
    with pytest.raises(ModelError, match=r"many\.gguf is not a readable GGUF file: a tensor has 100,000 dimensions"):
        read_header(gguf(tmp_path / "many.gguf", dimensions=100_000))
    for alignment in ((4, struct.pack("<I", 0)), (6, struct.pack("<f", 0.5)), (8, struct.pack("<Q", 1) + b"x")):
        with pytest.raises(ModelError, match=r"odd\.gguf is not a readable GGUF file: its alignment is impossible"):
            read_header(gguf(tmp_path / "odd.gguf", alignment=alignment))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"tensors": 0, "array": struct.pack("<IQ", 6, 2**63)}, "its header has lists of more than 2,000,000 elements"),
        ({"array": struct.pack("<IQ", 8, 2**63)}, "its header has lists of more than 2,000,000 elements"),
        ({"tensors": 0, "array": struct.pack("<IQ", 6, 10**6)}, "it is truncated"),
        ({"tensors": 2**63}, "its header has lists of more than 2,000,000 elements"),
        ({"entries": 2**63}, "its header has lists of more than 2,000,000 elements"),
        ({"tensors": 0}, "it has no tensors"),
    ],
    ids=["numbers", "texts", "beyond the end", "tensors", "entries", "nothing"],
)
def test_a_gguf_file_that_claims_more_than_it_can_have_is_refused_before_the_library_sees_it(
    tmp_path: Path, claims: dict[str, Any], words: str
) -> None:
    began = time.process_time()
    with pytest.raises(ModelError, match=rf"claims\.gguf is not a readable GGUF file: {words}"):
        read_header(gguf(tmp_path / "claims.gguf", **claims))
    assert time.process_time() - began < 1


def test_the_lists_of_a_gguf_header_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf(tmp_path / "lists.gguf", array=struct.pack("<IQ", 0, 50) + bytes(50))
    assert read_header(path).metadata["tokenizer.ggml.scores"] == 50
    monkeypatch.setattr("finetune.models.gguf_file.ELEMENTS", 52)
    with pytest.raises(ModelError, match="lists of more than 52 elements"):
        read_header(path)


def test_a_pattern_of_module_names_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.foreign.MATCHING_SECONDS", 1)
    path = tmp_path / "adapter_config.json"
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(80)]
    check_patterns([r".*\.layers\.\d+\.(self_attn|mlp)\.(q|v)_proj"], names, path)
    with pytest.raises(ModelError, match="takes too long"):
        check_patterns([r"(\w+\.?)+\.k_proj!"], names, path)
    with pytest.raises(ModelError, match="is not valid"):
        check_patterns(["(("], names, path)


# Data.


def test_a_damaged_arrow_file_does_not_kill_the_process(tmp_path: Path) -> None:
    """In a process of its own, which would die: the last offset of a column points far beyond the end of the file."""
    import pyarrow as pa

    path = tmp_path / "rows.arrow"
    table = pa.table({"question": ["aa", "bb", "cc"], "answer": ["x", "y", "z"]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    content = path.read_bytes()
    offsets = struct.pack("<4i", 0, 2, 4, 6)
    assert offsets in content
    path.write_bytes(content.replace(offsets, struct.pack("<4i", 0, 2, 4, 2**31 - 1)))
    code = (
        "import sys; from finetune.data.reading import read_rows; from finetune.errors import BadRow\n"
        "from finetune.events import Recorder; from finetune.recipe import DatasetSpec; from finetune.runtime import RuntimeOptions\n"
        "from pathlib import Path\n"
        "try:\n    read_rows(DatasetSpec(source=sys.argv[1]), RuntimeOptions(cache_dir=Path(sys.argv[2])), Recorder())\n"
        "except BadRow as error:\n    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "cache")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rows.arrow cannot be read")


@pytest.mark.parametrize("ending", [".arrow", ".parquet"])
def test_column_names_that_are_not_unicode_are_a_sentence(tmp_path: Path, runtime: RuntimeOptions, ending: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"rows{ending}"
    table = pa.table({"question": ["a", "b"], "answer": ["x", "y"]})
    if ending == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"question", b"\xff\xfe\xfdstion"))
    refused_data(path, runtime)


def test_rows_that_cost_no_bytes_are_not_counted_for_ever(tmp_path: Path, runtime: RuntimeOptions) -> None:
    import pyarrow as pa

    path = tmp_path / "rows.arrow"
    batch = pa.record_batch({"text": pa.nulls(10**9)})
    with pa.ipc.new_stream(path, batch.schema) as writer:
        writer.write_batch(batch)
    assert path.stat().st_size < 2000
    assert "1,000,000,000 rows" in refused_data(path, runtime).message


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_line_that_fills_the_memory_when_unpacked_is_refused(tmp_path: Path, runtime: RuntimeOptions, name: str) -> None:
    path = tmp_path / f"{name}.gz"
    start = {"rows.jsonl": '{"text": "', "rows.json": '[{"text": "', "rows.csv": 'a,b\n1,"', "rows.txt": ""}[name]
    path.write_bytes(gzip.compress(start.encode() + b"x" * (LINE + 2**21), compresslevel=1))
    assert f"more than {LINE:,} characters" in refused_data(path, runtime).message


def test_a_record_of_many_lines_that_fills_the_memory_is_refused(tmp_path: Path, runtime: RuntimeOptions) -> None:
    path = tmp_path / "rows.csv.gz"
    cell = '"' + "x" * 999 + '\n",'
    path.write_bytes(gzip.compress(b"a,b\n" + cell.encode() * (LINE // 1000), compresslevel=1))
    assert f"more than {LINE:,} characters" in refused_data(path, runtime).message


def test_a_long_line_of_a_file_that_is_not_packed_is_read(tmp_path: Path, runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.files.LINE", 100)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "a" * 5000}) + "\n" + json.dumps({"text": "b"}) + "\n")
    assert len(read_rows(DatasetSpec(source=str(path)), runtime, Recorder())) == 2


def test_a_packed_table_has_a_limit(tmp_path: Path, runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.readers.tables.UNPACKED", 1000)
    path = tmp_path / "rows.arrow.gz"
    path.write_bytes(gzip.compress(bytes(2 << 20)))
    assert UNPACKED > 1000
    assert "unpacks to more than" in refused_data(path, runtime).message


def test_deeply_nested_cells_are_skipped_with_a_reason(tmp_path: Path, runtime: RuntimeOptions) -> None:
    path = tmp_path / "rows.jsonl"
    deep = "[" * 900 + "]" * 900
    rows = [f'{{"text": "fine {number}", "more": 1}}' for number in range(9)]
    path.write_text("\n".join([*rows, '{"text": "a", "more": ' + deep + "}"]))
    found = read_rows(DatasetSpec(source=str(path), bad_rows=0.5), runtime, Recorder())
    assert (len(found), [row.reason for row in found.facts.skipped_rows]) in ((9, ["it is nested too deeply"]), (10, []))
    path.write_text('{"messages": "' + "[" * 100_000 + '"}\n')
    refused_data(path, runtime)


def test_a_heading_with_a_million_blanks_does_not_hang(tmp_path: Path, runtime: RuntimeOptions) -> None:
    path = tmp_path / "rows.md"
    path.write_text("# a" + " " * 200_000 + "\nx\n\n" * 3)
    began = time.process_time()
    read_rows(DatasetSpec(source=str(path)), runtime, Recorder())
    assert time.process_time() - began < 5


def test_file_names_that_are_not_unicode_are_a_sentence(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = os.fsencode(tmp_path / "data")
    os.mkdir(folder)
    try:
        Path(os.fsdecode(folder + b"/rows\xff.jsonl")).write_text('{"text": "a"}\n{"text": "b"}\n')
    except OSError:
        pytest.skip("the file system takes no such names")
    with pytest.raises(DatasetError, match=r"The name of rows\?\.jsonl is not valid UTF-8"):
        read_rows(DatasetSpec(source=str(tmp_path / "data")), runtime, Recorder())
    with pytest.raises(BadInput, match=r"rows\?\.jsonl is not valid UTF-8"):
        typed_path(os.fsdecode(b"rows\xff.jsonl"))


# Run folders.


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("benchmark.json", "[1]"),
        ("benchmark.json", '{"after": {"rougeL": "high"}}'),
        ("benchmark.json", '{"change": [1]}'),
        ("benchmark.json", "[" * 100_000),
        ("progress.json", "5"),
        ("progress.json", '{"stage": "dancing"}'),
        ("recipe.yaml", "seed: 2024-02-31"),
        ("recipe.yaml", "\0"),
        ("recipe.yaml", "[" * 5000),
    ],
)
def test_one_odd_run_does_not_hide_the_others(tmp_path: Path, file: str, content: str) -> None:
    written_run(tmp_path / "good")
    odd = written_run(tmp_path / "odd")
    (odd.run / file).write_text(content)
    found = {run.name: run for run in find_runs(tmp_path)}
    assert found["good"].state == "finished"
    assert found["odd"].state == UNREADABLE
    assert found["odd"].progress
    json.dumps([run.to_dict() for run in found.values()])


def test_a_checkpoint_of_somebody_else_is_not_a_crash(tmp_path: Path) -> None:
    folder = RunFolder(written_run(tmp_path / "run").output_dir)
    folder.write_stage("training")
    for number, facts in enumerate(({"total_steps": "many"}, {"seconds": None}, {"files": {"../../x": {"bytes": 1, "sha256": ""}}}, {})):
        manifest = folder.checkpoints / f"step-{number + 1:08d}" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"version": 1, "step": number + 1, "files": {}, **facts}))
    with pytest.raises(CannotResume, match="step-00000004 cannot be read: 'seconds' is missing"):
        find(folder.output_dir)


def test_the_weights_of_a_folder_are_still_read(tmp_path: Path, runtime: RuntimeOptions) -> None:
    folder = model_folder(tmp_path / "model", num_hidden_layers=300, hidden_size=5000, head_dim=64, n_positions=10**7)
    write_safetensors(folder / "model.safetensors", {f"layer.{number}": [1] for number in range(300)} | {"wide": [5000]})
    from finetune.models.location import locate

    assert locate(str(folder), runtime, Recorder()).bytes > 0
