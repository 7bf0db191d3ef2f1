"""What of a teacher's inside a student imitates: the arithmetic, which layers are compared, whole runs, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from letters import VOCABULARY
from pico import NAMES, Rows, arguments, assert_same_weights, model_gradients, pico, pico_rows
from rich.console import Console
from safetensors.torch import load_file
from test_distillation_trainer import batch_of
from test_resume import StopAt, resumed
from test_self_teacher import adapted
from workshop import Workshop, recorded

from finetune import Recipe, registry
from finetune.distillation import terms
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.students.making import make_student
from finetune.distillation.terms import Batch, internals
from finetune.distillation.terms.autograd import relation_divergence, relative_distance
from finetune.distillation.terms.inner_layers import layer_pairs
from finetune.distillation.terms.relations import relation_heads
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import Interrupted, RecipeError
from finetune.events import StageFinished, TrainingStep
from finetune.recipe.distillation_settings import FeaturesSpec
from finetune.recipe.settings import FromTeacher
from finetune.screen.console import THEME
from finetune.screen.plan_table import review

ALL = {"last": 0.1, "layers": "auto", "relations": ["q", "v"]}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch(real: list[list[int]], tokens: list[int]) -> Batch:
    here = torch.tensor(real)
    return Batch(here, here * torch.tensor(tokens)[:, None] / here.sum(1, keepdim=True).double())


SOME = batch([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], [3, 2])


class TestArithmetic:
    def test_gradients_are_the_slopes_of_the_values(self) -> None:
        student, teacher = random(6, 4).requires_grad_(), random(6, 4, seed=1)
        assert torch.autograd.gradcheck(lambda x: relative_distance(x, teacher), student)
        projected, theirs = random(2, 5, 6).requires_grad_(), random(2, 5, 9, seed=1)
        assert torch.autograd.gradcheck(lambda x: relation_divergence(x, theirs, 3, SOME), projected)

    def test_relations_do_not_change_under_a_rotation_inside_a_head(self) -> None:
        student, teacher = random(2, 5, 6), random(2, 5, 6, seed=1)
        turns = torch.block_diag(*(torch.linalg.qr(random(3, 3, seed=seed)).Q for seed in (3, 4)))
        before = relation_divergence(student, teacher, 2, SOME)
        torch.testing.assert_close(relation_divergence(student @ turns, teacher, 2, SOME), before)
        mixed = torch.linalg.qr(random(6, 6, seed=5)).Q
        assert not torch.isclose(relation_divergence(student @ mixed, teacher, 2, SOME), before)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_on_either_side_counts_for_nothing(self, side: str) -> None:
        student, teacher = random(1, 3, 4), random(1, 3, 4, seed=1)
        alone = relation_divergence(student, teacher, 2, batch([[1, 1, 1]], [2]))
        around = (0, 0, 2, 0) if side == "left" else (0, 0, 0, 2)
        padded = [torch.nn.functional.pad(each, around, value=7.0).requires_grad_() for each in (student, teacher)]
        real = [0, 0, 1, 1, 1] if side == "left" else [1, 1, 1, 0, 0]
        value = relation_divergence(*padded, 2, batch([real], [2]))
        value.backward()
        torch.testing.assert_close(value, alone)
        assert torch.equal(padded[0].grad.abs().sum(-1)[0] > 0, torch.tensor(real).bool())

    def test_rows_in_parts_are_the_rows_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        student, teacher = random(2, 5, 6), random(2, 5, 6, seed=1)
        at_once = relation_divergence(student, teacher, 2, SOME)
        monkeypatch.setattr("finetune.distillation.terms.autograd.SCORE_BYTES", 1)
        torch.testing.assert_close(relation_divergence(student, teacher, 2, SOME), at_once)

    def test_a_token_without_length_stays_finite(self) -> None:
        assert relative_distance(torch.zeros(1, 3), torch.zeros(1, 3)) == 0

    def test_heads_are_as_many_as_divide_both_widths(self) -> None:
        assert relation_heads(192, 192, 3) == 3
        assert relation_heads(128, 192, 3) == 2
        assert relation_heads(65, 192, 3) == 1


CUT = {"layers": 4, "of_layers": 6, "left_out": [3, 4]}


@pytest.mark.parametrize(
    ("wanted", "depths", "made", "pairs"),
    [
        ("none", (4, 6), CUT, []),
        ("auto", (4, 6), CUT, [(2, 4), (3, 5)]),
        ([1, 4], (4, 6), CUT, [(0, 0), (3, 5)]),
        ("auto", (3, 6), {"layers": 3, "of_layers": 6, "left_out": [[2, 2], [4, 5]]}, [(1, 2), (2, 5)]),
        ("auto", (4, 6), {**CUT, "left_out": [5, 6]}, [(3, 3)]),
        ("auto", (4, 6), {**CUT, "ffn": 20}, [(0, 0), (1, 1), (2, 4), (3, 5)]),
        ("auto", (2, 2), {"ffn": 20, "of_ffn": 40}, [(0, 0), (1, 1)]),
        ("auto", (2, 6), None, [(0, 2), (1, 5)]),
        ("auto", (2, 6), {"kl": 1.0}, [(0, 2), (1, 5)]),
    ],
)
def test_which_layers_are_compared(wanted: Any, depths: tuple[int, int], made: Any, pairs: Any) -> None:
    assert list(layer_pairs(wanted, *depths, made)) == pairs


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(RecipeError, match="names layer 5, and the student has 4"):
        layer_pairs([1, 5], 4, 6, CUT)
    with pytest.raises(RecipeError, match="A student of 3 of 6 layers is described as one of 4 of 6"):
        layer_pairs("auto", 3, 6, CUT)


def supervised_states(model: Any, row: dict[str, Any]) -> torch.Tensor:
    states = model.model(torch.tensor([row["input_ids"]])).last_hidden_state[0, :-1]
    return states[torch.tensor(row["labels"][1:]) != -100]


class TestTheTrainer:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_architecture_is_compared(self, name: str, tmp_path: Path) -> None:
        student, teacher, rows = pico(name), pico(name, seed=7), Rows(pico_rows(4))
        trainer = DistillationTrainer(student, arguments(tmp_path), teacher_model=teacher, train_dataset=rows, features=ALL)
        trainer.train()
        assert trainer.last_parts.keys() >= terms.weights_of(FeaturesSpec(**ALL)).keys()
        assert all(value > 0 for value in trainer.last_parts.values())
        compared = internals.compared_of(FeaturesSpec(**ALL), student, teacher, None)
        cache = build_cache("hidden", teacher, rows, tmp_path / "cache", compared=compared)
        again = DistillationTrainer(pico(name), arguments(tmp_path), cache=cache, train_dataset=rows, features=ALL)
        again.train()
        assert again.last_parts == pytest.approx(trainer.last_parts, rel=5e-3)
        said = compared.kept(*internals.facts_of(teacher)).bytes(cache.tokens, sum(len(row["input_ids"]) for row in rows), torch.float32)
        assert cache.nbytes - (said + 4 * cache.tokens * cache.head.weight.shape[1]) < 100 * (len(compared.names()) + 6)

    def test_a_student_made_from_its_teacher_begins_with_the_layers_behind_the_cut(self, tmp_path: Path) -> None:
        teacher = pico("llama", dtype=torch.float64, num_hidden_layers=6)
        made = make_student(teacher, FromTeacher(layers=4), pico_rows(4))
        settings: dict[str, Any] = {"teacher_model": teacher, "train_dataset": Rows(pico_rows(4)), "features": {"layers": "auto"}}
        trainer = DistillationTrainer(made.model, arguments(tmp_path), made=made.facts, **settings)
        trainer.train()
        first, last = made.facts["left_out"]
        watched, theirs = ([each.module for each in of["layers"]] for of in (trainer.features._watched, trainer.features._teacher_watched))
        assert watched == list(made.model.model.layers[first - 1 :])
        assert theirs == list(teacher.model.layers[last:])

    def test_states_before_the_cut_are_the_teachers_at_the_start(self, tmp_path: Path) -> None:
        teacher = pico("llama", dtype=torch.float64, num_hidden_layers=6)
        made = make_student(teacher, FromTeacher(layers=4), pico_rows(4))
        before = list(range(1, made.facts["left_out"][0]))
        more: dict[str, Any] = {"teacher_model": teacher, "train_dataset": Rows(pico_rows(4)), "made": made.facts}
        trainer = DistillationTrainer(made.model, arguments(tmp_path), features={"layers": before}, **more)
        trainer.compute_loss(made.model.train(), batch_of(pico_rows(4)))
        assert float(trainer.parts.sums["layers"]) == 0

    def test_activation_checkpointing_changes_no_gradient(self, tmp_path: Path) -> None:
        found = []
        for checkpointed in (False, True):
            student, rows = pico("llama", dtype=torch.float64).train(), pico_rows(4)
            more: dict[str, Any] = {"teacher_model": pico("llama", seed=7, dtype=torch.float64), "train_dataset": Rows(rows)}
            trainer = DistillationTrainer(student, arguments(tmp_path), features=ALL, **more)
            assert not checkpointed or trainer.checkpoint_activations()
            found.append(model_gradients(student, trainer.compute_loss(student, batch_of(rows))))
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12)

    def test_a_model_is_its_own_teacher_without_its_adapter(self, tmp_path: Path) -> None:
        found, rows = [], pico_rows(4)
        for teacher in ("self", pico("llama", dtype=torch.float64)):
            student = adapted(moved=True).eval()
            trainer = DistillationTrainer(student, arguments(tmp_path), teacher_model=teacher, train_dataset=Rows(rows), features=ALL)
            found.append((trainer.compute_loss(student, batch_of(rows)), student))
        (one, first), (other, second) = found
        torch.testing.assert_close(one, other, rtol=1e-7, atol=0)
        ours, theirs = model_gradients(first, one), model_gradients(second, other)
        for name, gradient in ours.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("name", ["last", "layers"])
    def test_maps_between_widths_begin_near_and_train_beside_the_student(self, name: str, tmp_path: Path) -> None:
        student, wider, rows = pico("llama", dtype=torch.float64), pico("llama", seed=7, dtype=torch.float64, hidden_size=48), pico_rows(8)
        asked = {"last": {"last": 1.0}, "layers": {"layers": [1, 3]}}[name]
        settings = arguments(tmp_path, num_train_epochs=4)
        trainer = DistillationTrainer(student, settings, teacher_model=wider, train_dataset=Rows(rows), features=asked)
        maps = [each.weight for each in trainer.features.maps[name]]
        assert [tuple(weight.shape) for weight in maps] == [(48, 24)] * (1 if name == "last" else 2)
        if name == "last":
            ours, theirs = (torch.cat([supervised_states(model, row) for row in rows]) for model in (student, wider))
            ridge = 0.01 * (ours**2).sum(0).mean()
            stacked = torch.cat([ours, ridge.sqrt() * torch.eye(24, dtype=torch.float64)])
            expected = torch.linalg.lstsq(stacked, torch.cat([theirs, torch.zeros(24, 48, dtype=torch.float64)])).solution.T
            torch.testing.assert_close(maps[0], expected, rtol=1e-4, atol=1e-6)
        names, before = list(student.state_dict()), [weight.detach().clone() for weight in maps]
        trainer.train()
        assert list(student.state_dict()) == names
        assert all(not torch.equal(weight, old) for weight, old in zip(maps, before, strict=True))
        assert 0 < trainer.last_parts[name] < 0.5  # the distance from nothing at all

    def test_maps_begin_with_a_cache_as_with_its_model(self, tmp_path: Path) -> None:
        wider, rows, found = pico("llama", seed=7, dtype=torch.float64, hidden_size=48), pico_rows(8), []
        for online in (True, False):
            student = pico("llama", dtype=torch.float64)
            said = {"teacher_model": wider} if online else {"cache": build_cache("hidden", wider, rows, tmp_path / "cache")}
            trainer = DistillationTrainer(student, arguments(tmp_path), train_dataset=Rows(rows), features={"last": 1.0}, **said)
            trainer.train()
            found.append(student)
        assert_same_weights(*found, tolerance=1e-6)
        with pytest.raises(RecipeError, match="must look training rows up by number, and there are none"):
            DistillationTrainer(student, arguments(tmp_path), teacher_model=wider, features={"last": 1.0})

    def test_one_teacher_that_all_rows_are_routed_to_is_compared_too(self, tmp_path: Path) -> None:
        found = []
        for routes in ({}, {"teacher_rows": [0, 0, 0, 0]}):
            student, more = pico("llama"), {"teacher_model": pico("llama", seed=7), "features": {"last": 0.1}, **routes}
            trainer = DistillationTrainer(student, arguments(tmp_path), train_dataset=Rows(pico_rows(4)), **more)
            found.append(trainer.compute_loss(student, trainer.data_collator([*trainer.train_dataset])))
        assert torch.equal(*found)

    def test_relations_need_no_maps(self, tmp_path: Path) -> None:
        wider = pico("llama", seed=7, hidden_size=48)
        more: dict[str, Any] = {"teacher_model": wider, "train_dataset": Rows(pico_rows(4)), "features": {"relations": "v"}}
        trainer = DistillationTrainer(pico("llama"), arguments(tmp_path), **more)
        assert not len(trainer.features.maps)
        trainer.train()
        assert trainer.last_parts["relations"] > 0


QUICK = {"epochs": 1, "batch_size": 6, "learning_rate": 0.01, "save_every": 1}
SHORT = {"rows": 4, "max_new_tokens": 4, "speed": False}


def layer(shop: Workshop, asked: dict[str, Any], cache: str = "auto", **changes: Any) -> dict[str, Any]:
    return shop.distilling(distillation={"features": asked, "cache": cache}, training=QUICK, benchmark=SHORT, **changes)


class TestRuns:
    def test_a_run_says_what_it_compares_and_a_resumed_one_ends_with_the_same_bits(self, shop: Workshop) -> None:
        tuner = shop.tuner(layer(shop, ALL))
        plan = tuner.plan()
        assert plan.memory["features"] > 0
        # The last state in 32 bits, that of two layers in 16, queries and values of every place in 16, and the head.
        assert plan.cache_bytes == plan.supervised_tokens * 32 * (4 + 2 * 2) + plan.tokens * (32 + 16) * 2 + VOCABULARY * 32 * 4
        console = Console(file=io.StringIO(), width=150, theme=THEME)
        console.print(review(tuner.recipe, plan))
        shown = " ".join(console.file.getvalue().split())
        assert "last states (weight 0.1), inner layers (weight 1), relations of tokens: q, v (weight 1)" in shown
        assert "at most" in shown
        whole = tuner.run().output_dir
        steps = [event for event in map(json.loads, (whole / "run" / "events.jsonl").read_text().splitlines()) if event["event"] == "step"]
        assert all(step["parts"].keys() == {"last", "layers", "relations", "kl", "ce"} for step in steps)
        for record in (whole / "README.md", whole / "run" / "report.html"):
            assert "relations of tokens: q, v (weight 1)" in record.read_text()
        (ended,) = (event for event in tuner.context.reporter.reporters[0].of(StageFinished) if event.stage == "teacher cache")
        assert ended.summary.startswith("hidden cache, ")
        assert ended.summary.endswith(" of it for what features compare")
        again = shop.tuner(layer(shop, ALL))
        assert again.plan().cache_bytes == 0, "it is there"
        again.context.reporter.reporters.append(StopAt(2))
        with pytest.raises(Interrupted):
            again.run()
        result, _ = resumed(again.folder.output_dir, shop)
        assert (result.output_dir / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    def test_maps_are_resumed_and_are_not_saved(self, shop: Workshop) -> None:
        from letters import llama, tokenizer

        wider = shop.folder / "wider"
        if not wider.exists():
            llama(seed=9, layers=3, hidden_size=48).save_pretrained(wider)
            tokenizer(chat=True).save_pretrained(wider)
        recipe = {"teacher": str(wider), "model": str(shop.model), "method": "full"}
        tuner = shop.tuner(layer(shop, {"last": 0.1, "layers": "auto"}, **recipe))
        plan = tuner.plan()
        assert any("maps from one to the other train with the student, and are not saved with it" in note for note in plan.notes)
        whole = tuner.run().output_dir
        again = shop.tuner(layer(shop, {"last": 0.1, "layers": "auto"}, **recipe))
        again.context.reporter.reporters.append(StopAt(2))
        with pytest.raises(Interrupted):
            again.run()
        result, _ = resumed(again.folder.output_dir, shop)
        file = "model.safetensors"
        assert (result.output_dir / file).read_bytes() == (whole / file).read_bytes()
        assert not [name for name in load_file(whole / file) if "feature_maps" in name]

    def test_last_states_come_from_the_hidden_cache(self, shop: Workshop) -> None:
        tuner = shop.tuner(layer(shop, {"last": 0.1}))
        assert not any("runs at every step" in note for note in tuner.plan().notes)
        planned = tuner.plan().cache_bytes
        tuner.run()
        (ended,) = (event for event in tuner.context.reporter.reporters[0].of(StageFinished) if event.stage == "teacher cache")
        assert ended.summary.startswith("hidden cache")
        assert "no gradient cache because distillation.features.last compares hidden states" in ended.summary
        assert planned > 0

    def test_every_round_compares_the_layers_that_it_has_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from letters import llama, tokenizer

        shop, found = Workshop(tmp_path), []
        llama(seed=5, layers=6).save_pretrained(shop.folder / "deep")
        tokenizer(chat=True).save_pretrained(shop.folder / "deep")
        pairs = internals.layer_pairs
        monkeypatch.setattr(internals, "layer_pairs", lambda *given: found.append((given[1:], pairs(*given))) or found[-1][1])
        asked = {"rounds": [4, 3], "features": {"layers": [1, 2, 3]}}
        recipe = shop.distilling(model=None, teacher=str(shop.folder / "deep"), distillation=asked, training=QUICK, benchmark=SHORT)
        tuner = shop.tuner(recipe)
        tuner.run()
        trained = [(depths, of) for (*depths, made), of in found if made]
        assert [depths for depths, _ in trained] == [[4, 6], [3, 6]]
        kept = json.loads(tuner.folder.student.read_text())["left_out"]
        left = [layer for layer in range(6) if not any(first <= layer + 1 <= last for first, last in kept)]
        assert [other for _, other in trained[-1][1]] == left
        assert any("Each round compares other layers of the teacher" in note for note in tuner.plan().notes)
        (ended,) = (event for event in recorded(tuner).of(StageFinished) if event.stage == "teacher cache")
        assert ended.summary == "each round compares other layers of the teacher, which runs online"

    def test_a_teacher_with_a_system_prompt_is_compared_at_the_answers(self, shop: Workshop) -> None:
        asked = {"last": 0.1, "layers": "auto"}
        teacher = {"source": str(shop.model), "system": "be a cat"}
        told = [shop.tuner(layer(shop, asked, cache, teacher=teacher)) for cache in ("auto", "none")]
        for tuner in told:
            tuner.run()
        assert told[0].recipe.distillation.supervise == "answers"
        cached, online = (recorded(tuner).of(TrainingStep)[-1].parts for tuner in told)
        assert cached == pytest.approx(online, rel=2e-3)

    def test_a_model_that_trains_whole_is_its_own_teacher_from_a_cache_or_loaded_twice(self, shop: Workshop) -> None:
        itself = {"model": str(shop.model), "teacher": "self", "method": "full"}
        tuners = [shop.tuner(layer(shop, {"layers": "auto", "relations": "v"}, cache, **itself)) for cache in ("auto", "none")]
        assert [tuner.context.copies_itself for tuner in tuners] == [False, True]
        for tuner in tuners:
            tuner.run()
        cached, online = ([step.parts for step in recorded(tuner).of(TrainingStep)] for tuner in tuners)
        for one, other in zip(cached, online, strict=True):
            assert one == pytest.approx(other, rel=2e-2, abs=1e-5)

    @pytest.mark.parametrize(
        ("asked", "changes", "said"),
        [
            ({"layers": [7]}, {}, "names layer 7, and the student has 2"),
            *(({"layers": given}, {}, "must be none, auto, or numbers of layers") for given in ([0], [], "all", 3, [True])),
            ({"relations": ["v", "v"]}, {}, "must name each of them once"),
            ({"last": -1}, {}, r"distillation\.features\.last"),
            (ALL, {"cache": "hidden", "rounds": [2]}, "which change in each round, .* and `distillation.cache: hidden`"),
            (ALL, {"round_teacher": "previous", "rounds": [2]}, "which compares the layers of one teacher, and `round_teacher: previous`"),
            ({"last": 0.1}, {"cache": "gradient"}, "`distillation.cache: gradient`, which has none"),
            ({"last": 0.1}, {"alpha": 1.0}, "`distillation.alpha: 1`, which asks no teacher"),
            ({"last": 0.1}, {"across_tokenizers": "projected"}, "which compares the states of equal tokens"),
        ],
    )
    def test_refusals_come_before_the_long_work(self, asked: Any, changes: Any, said: str, shop: Workshop) -> None:
        with pytest.raises(RecipeError, match=said):
            shop.tuner(shop.distilling(distillation={"features": asked, **changes})).check()

    def test_more_refusals(self, shop: Workshop) -> None:
        several = {"approach": "distillation", "model": "gpt2", "teachers": ["gpt2-medium", "gpt2-large"]}
        with pytest.raises(RecipeError, match="which compares the student with one teacher, and `teachers`"):
            Recipe.from_layers({**several, "distillation": {"features": {"last": 0.1}}})
        told = {"approach": "distillation", "teacher": {"source": "gpt2", "system": "be short"}}
        with pytest.raises(RecipeError, match=r"`teacher\.system`, which the student lacks"):
            Recipe.from_layers({**told, "distillation": {"features": {"relations": "k"}}})


def test_relations_may_be_written_as_one_word() -> None:
    assert FeaturesSpec(relations="v").relations == ["v"]
    assert FeaturesSpec(relations="none").relations == []
    assert list(FeaturesSpec.model_fields)[::2] == ["last", "layers_weight", "relations_weight"]
    assert set(registry.names("terms")) < set(FeaturesSpec.model_fields)
