"""Every signal, objective and term of the registry: float64 references written from the formulas, identities, cache equals online,
accumulation changes nothing, refusals in sentences; signals and objectives also with several teachers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pico import Rows, arguments, assert_same_weights, losses, model_gradients, pico, pico_rows
from test_distillation_loss import ALPHAS, kl, naive_divergence, objective
from test_distillation_trainer import CLOSE, batch_of
from test_engine_chunked_loss import LABELS, VOCABULARY, gradients, made, textbook_logits
from torch import Tensor

from finetune import registry
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.caches.choice import signals_for
from finetune.distillation.loss import Distillation
from finetune.distillation.teachers.mixture import Mixture, Routed, mixed
from finetune.distillation.terms.internals import compared_of
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import RecipeError, TrainingError, VocabularyMismatch
from finetune.recipe.distillation_settings import FeaturesSpec
from finetune.training.head import head_of
from finetune.training.loss.chunked import ChunkLogits, chunked_loss

ROW = VOCABULARY * 8
BUDGET: dict[str, int] = {"chunk_bytes": ROW * 12, "block_bytes": ROW * 3}
OBJECTIVES = registry.names("objectives")
SIGNALS = [*signals_for(spans=False)]  # those of spans and of a server: test_across_spans.py, test_top_k.py
TERMS: dict[str, dict[str, Any]] = {
    "last": {"last": 0.3},
    "layers": {"layers": [1, 2], "layers_weight": 0.3},
    "relations": {"relations": ["q", "k", "v"], "relations_weight": 0.3},
}


def of_several(name: str, p: Tensor, qs: list[Tensor], weights: list[float]) -> Tensor:
    """What the loss against several teachers is for each token: a weighted sum of divergences, or that to the mean."""
    if name in ("forward_kl", "reverse_kl"):
        return sum((weight * naive_divergence(name, p, q) for weight, q in zip(weights, qs, strict=True)), torch.zeros(len(p)))
    return naive_divergence(name, p, sum((weight * q for weight, q in zip(weights, qs, strict=True)), torch.zeros_like(p)))


def several(count: int, temperature: float) -> tuple[list[ChunkLogits], list[Tensor]]:
    """Teachers of different widths and kinds of head, and their textbook distributions."""
    kinds = [made(kind, torch.float64, seed=seed + 1, width=10 + seed) for seed, kind in enumerate(["bias", "soft cap", "scale"][:count])]
    logits = [ChunkLogits(f"teacher {seed}", hidden.detach(), head.detach(), temperature) for seed, (hidden, head) in enumerate(kinds)]
    return logits, [F.softmax(textbook_logits(hidden, head).detach() / temperature, -1) for hidden, head in kinds]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("weights", "temperature"), [([0.7, 0.3], 2.0), ([0.2, 0.5, 0.3], 1.0)])
@pytest.mark.parametrize("per_token", [False, True])
def test_several_teachers_are_the_textbook_mixture(name: str, weights: list[float], temperature: float, per_token: bool) -> None:
    hidden, head = made("bias", torch.float64)
    teachers, qs = several(len(weights), temperature)
    alpha: Any = ALPHAS if per_token else 0.4
    ours = chunked_loss(hidden, head, mixed(LABELS, teachers, weights, objective(name), alpha, temperature), **BUDGET)
    student = textbook_logits(hidden, head)
    hard, soft = F.cross_entropy(student, LABELS, reduction="none"), of_several(name, F.softmax(student / temperature, -1), qs, weights)
    theirs = (alpha * hard + (1 - alpha) * temperature**2 * soft).sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-10)


def fused(rule: Any, tokens: slice = slice(None)) -> list[Tensor]:
    """Loss and gradients of a student's states and head under a rule of some tokens."""
    hidden, head = made("bias", torch.float32)
    loss = chunked_loss(hidden[tokens], head, rule, **BUDGET)
    return [loss.detach(), *gradients(loss, hidden, head)]


def logits_of(seed: int, rows: slice = slice(None), name: str = "") -> ChunkLogits:
    hidden, head = made("bias", torch.float32, seed=seed, width=10)
    return ChunkLogits(name or f"teacher {seed}", hidden.detach()[rows], head.detach(), 2.0)


@pytest.mark.parametrize("name", OBJECTIVES)
class TestMixtures:
    def test_a_weight_of_one_is_that_teacher_alone_bit_for_bit(self, name: str) -> None:
        both = fused(mixed(LABELS, [logits_of(1), logits_of(2)], [1.0, 0.0], objective(name), 0.5, 2.0))
        alone = fused(Distillation(LABELS, logits_of(1), objective(name), 0.5, 2.0))
        assert all(torch.equal(one, other) for one, other in zip(both, alone, strict=True))

    def test_identical_teachers_are_one(self, name: str) -> None:
        twins = fused(Mixture(LABELS, [(logits_of(1), 0.3), (logits_of(1, name="its twin"), 0.7)], objective(name), 0.5, 2.0))
        alone = fused(Distillation(LABELS, logits_of(1), objective(name), 0.5, 2.0))
        for one, other in zip(twins, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))

    def test_their_order_does_not_matter(self, name: str) -> None:
        there = fused(Mixture(LABELS, [(logits_of(1), 0.3), (logits_of(2), 0.7)], objective(name), 0.5, 2.0))
        back = fused(Mixture(LABELS, [(logits_of(2), 0.7), (logits_of(1), 0.3)], objective(name), 0.5, 2.0))
        for one, other in zip(there, back, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))

    def test_confident_and_contrary_teachers_stay_finite(self, name: str) -> None:
        hidden, head = made("plain", torch.float32)
        ours, others = made("plain", torch.float32, seed=1), made("plain", torch.float32, seed=2)
        teachers = [
            (ChunkLogits(f"{at}", sign * 100 * states.detach(), of.detach(), 2.0), 0.5)
            for at, sign, (states, of) in ((0, 1, ours), (1, -1, others))
        ]
        loss = chunked_loss(hidden * 100, head, Mixture(LABELS, teachers, objective(name), 0.5, 2.0))
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients(loss, hidden, head))

    def test_each_token_of_a_route_hears_its_own_teacher(self, name: str) -> None:
        starts = [0, 5, 6, 20]
        tokens = [slice(*ends) for ends in pairwise([*starts, len(LABELS)])]
        runs = [logits_of(seed, part) for seed, part in zip((1, 2, 1, 2), tokens, strict=True)]
        ours = fused(Distillation(LABELS, Routed(starts, runs), objective(name), 0.5, 2.0))
        parts = [fused(Distillation(LABELS[part], run, objective(name), 0.5, 2.0), part) for part, run in zip(tokens, runs, strict=True)]
        for one, *others in zip(ours, *parts, strict=True):
            torch.testing.assert_close(one, sum(others), rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def student_of() -> Any:
    student = pico("llama", dtype=torch.float64, tie_word_embeddings=False)
    student.get_output_embeddings().weight.requires_grad_(False)  # so that every signal serves it
    return student


def teacher_of(seed: int) -> Any:
    return pico("qwen3", seed=seed, dtype=torch.float64)


def run(folder: Any, teachers: Any = None, caches: Any = None, **changes: Any) -> tuple[Any, DistillationTrainer]:
    """A student after two epochs in random order."""
    own = {key: changes.pop(key) for key in ("objective", "teacher_weights", "teacher_rows", "alpha", "features") if key in changes}
    rows = changes.pop("rows", ROWS)
    settings = {"num_train_epochs": 2, "train_sampling_strategy": "random", "per_device_train_batch_size": 4, "seed": 3, **changes}
    student = student_of()
    trainer = DistillationTrainer(
        student, arguments(folder, **settings), teacher_model=teachers, cache=caches, train_dataset=Rows(rows), **own
    )
    trainer.train()
    return student, trainer


ROWS = pico_rows(8)
OF_ROWS = [0, 1, 1, 0, 0, 1, 0, 1]


def cached(signal: str, seed: int, folder: Any, rows: Any = ROWS, features: Any = None) -> Any:
    student, teacher = student_of(), teacher_of(seed)
    compared = compared_of(FeaturesSpec(**features or {}), student, teacher, None)
    place = folder / f"{signal}{seed}{len(features or {})}"
    return build_cache(signal, teacher, rows, place, student_head=head_of(student), temperature=2.0, compared=compared)


class TestRuns:
    @pytest.mark.parametrize("signal", SIGNALS)
    def test_a_mixture_from_caches_is_one_of_models(self, signal: str, tmp_path: Any) -> None:
        online, asked = run(tmp_path, [teacher_of(7), teacher_of(8)], teacher_weights=[7, 3])
        read, from_disk = run(tmp_path, None, [cached(signal, 7, tmp_path), cached(signal, 8, tmp_path)], teacher_weights=[0.7, 0.3])
        assert losses(from_disk) == pytest.approx(losses(asked), rel=1e-6)
        assert_same_weights(online, read, tolerance=1e-6)

    @pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "forward_kl"])
    def test_a_mixture_from_hidden_caches_serves_every_objective(self, name: str, tmp_path: Any) -> None:
        online, _ = run(tmp_path, [teacher_of(7), teacher_of(8)], objective=name)
        read, _ = run(tmp_path, None, [cached("hidden", 7, tmp_path), cached("hidden", 8, tmp_path)], objective=name)
        assert_same_weights(online, read, tolerance=1e-6)

    @pytest.mark.parametrize("signal", [None, *SIGNALS])
    def test_routed_teachers_are_separate_runs(self, signal: str | None, tmp_path: Any) -> None:
        """One step over all rows moves the weights as far as one step over each teacher's rows, by their share of the tokens."""
        mine = [[row for row, of in zip(ROWS, OF_ROWS, strict=True) if of == number] for number in (0, 1)]
        one_step = {"num_train_epochs": 1, "per_device_train_batch_size": 8}

        def sources(number: int) -> dict[str, Any]:
            return {"caches": cached(signal, 7 + number, tmp_path, mine[number])} if signal else {"teachers": teacher_of(7 + number)}

        both = [sources(0), sources(1)]
        together, trainer = run(tmp_path, **{key: [source[key] for source in both] for key in both[0]}, teacher_rows=OF_ROWS, **one_step)
        start = dict(student_of().named_parameters())
        apart = [run(tmp_path, **sources(number), rows=mine[number], **one_step) for number in (0, 1)]
        for name, value in together.named_parameters():
            moved = sum(
                (dict(student.named_parameters())[name] - start[name]) * (single.supervised_tokens / trainer.supervised_tokens)
                for student, single in apart
            )
            torch.testing.assert_close(value - start[name], moved, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("more", [{"teacher_weights": [0.7, 0.3]}, {"teacher_rows": OF_ROWS}])
    def test_accumulating_changes_nothing(self, more: dict[str, Any], tmp_path: Any) -> None:
        teachers = [teacher_of(7), teacher_of(8)]
        at_once, _ = run(tmp_path, teachers, **more, per_device_train_batch_size=4, train_sampling_strategy="sequential")
        in_parts, _ = run(
            tmp_path, teachers, **more, per_device_train_batch_size=1, gradient_accumulation_steps=4, train_sampling_strategy="sequential"
        )
        assert_same_weights(at_once, in_parts, tolerance=1e-9)

    def test_evaluation_tells_the_divergence_to_the_mixture(self, tmp_path: Any) -> None:
        _, trainer = run(tmp_path, [teacher_of(7), teacher_of(8)], teacher_weights=[0.7, 0.3])
        told = trainer.evaluate(Rows(ROWS))
        student, total, tokens = trainer.model.eval(), 0.0, 0
        for row in ROWS:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
            p, *qs = (F.softmax(model(ids).logits[0, :-1][labels != -100] / 2, -1) for model in (student, teacher_of(7), teacher_of(8)))
            total += (0.7 * kl(qs[0], p) + 0.3 * kl(qs[1], p)).sum().item()
            tokens += len(p)
        assert told["eval_kl"] == pytest.approx(total / tokens, rel=1e-6)


def apart(name: str, student: Any, teacher: Any, row: dict[str, Any]) -> Tensor:
    """A term of two Llamas, summed over the supervised tokens of a row that is alone: sums over places, written out."""
    ids, places = torch.tensor([row["input_ids"]]), [place for place, label in enumerate(row["labels"][1:]) if label != -100]
    ours, theirs = (model.model(ids, output_hidden_states=True) for model in (student, teacher))
    if name == "relations":
        total = torch.zeros((), dtype=torch.float64)
        for kind in "qkv":
            x, y = (
                getattr(model.model.layers[-1].self_attn, f"{kind}_proj")(model.model.layers[-1].input_layernorm(seen.hidden_states[-2]))[0]
                for model, seen in ((student, ours), (teacher, theirs))
            )
            heads = 4 if kind == "q" else 2
            for mine, other in zip(x.chunk(heads, -1), y.detach().chunk(heads, -1), strict=True):
                for place in range(len(x)):
                    p, q = (F.softmax(each[: place + 1] @ each[place] / each.shape[1] ** 0.5, 0) for each in (mine, other))
                    total = total + (q * (q.log() - p.log())).sum() / heads
        return total * len(places) / len(row["input_ids"])
    pairs = [(ours.last_hidden_state, theirs.last_hidden_state)]
    if name == "layers":
        pairs = [(ours.hidden_states[layer], theirs.hidden_states[layer]) for layer in (1, 2)]
    parts = [((one - other.detach()) ** 2).sum(-1)[0, places] / (other.detach() ** 2).sum(-1)[0, places] / 2 for one, other in pairs]
    return torch.stack(parts).mean(0).sum()


@pytest.mark.parametrize("name", registry.names("terms"))
class TestTerms:
    def losses_of(self, name: str, folder: Any, batch: Any, teacher: Any) -> tuple[Any, list[Tensor], Any]:
        """A student, its loss with the term and without, and the trainer."""
        student, more = pico("llama", dtype=torch.float64), {"teacher_model": teacher, "train_dataset": Rows(ROWS)}
        both = [DistillationTrainer(student, arguments(folder), features=of, **more) for of in (TERMS[name], None)]
        return student, [trainer.compute_loss(student, batch) for trainer in both], both[0]

    @pytest.mark.parametrize("padding", [0, 9])
    def test_the_loss_and_its_gradients_are_those_written_out_whatever_the_padding(self, name: str, padding: int, tmp_path: Any) -> None:
        teacher = pico("llama", seed=7, dtype=torch.float64)
        student, (with_it, without), _ = self.losses_of(name, tmp_path, batch_of(ROWS, padding), teacher)
        tokens = sum(label != -100 for row in ROWS for label in row["labels"][1:])
        theirs = 0.3 * torch.stack([apart(name, student, teacher, row) for row in ROWS]).sum() / tokens
        assert theirs > 0.01
        torch.testing.assert_close(with_it - without, theirs, rtol=CLOSE, atol=0)
        ours, plain, reference = model_gradients(student, with_it), model_gradients(student, without), model_gradients(student, theirs)
        for of, slope in ours.items():
            torch.testing.assert_close(slope - plain[of], reference.get(of, torch.zeros_like(slope)), rtol=10 * CLOSE, atol=CLOSE)

    def test_models_that_are_the_same_are_not_apart(self, name: str, tmp_path: Any) -> None:
        _, (with_it, without), trainer = self.losses_of(name, tmp_path, batch_of(ROWS), pico("llama", dtype=torch.float64))
        assert torch.equal(with_it, without)
        trainer.train()
        assert name in trainer.last_parts

    @pytest.mark.parametrize("signal", SIGNALS)
    def test_a_cache_is_the_model_or_refused(self, name: str, signal: str, tmp_path: Any) -> None:
        asked = {"features": TERMS[name]}
        if (name, signal) == ("last", "gradient"):
            with pytest.raises(RecipeError, match="A gradient cache has no hidden states"):
                run(tmp_path, None, cached(signal, 7, tmp_path), **asked)
            return
        online, told = run(tmp_path, teacher_of(7), **asked)
        read, said = run(tmp_path, None, cached(signal, 7, tmp_path, features=TERMS[name]), **asked)
        assert_same_weights(online, read, tolerance=1e-6)
        assert said.last_parts[name] == pytest.approx(told.last_parts[name], rel=1e-6)
        if name != "last":
            with pytest.raises(RecipeError, match="This cache lacks inner layers or relations"):
                run(tmp_path, None, cached(signal, 7, tmp_path), **asked)

    def test_accumulating_changes_nothing(self, name: str, tmp_path: Any) -> None:
        plain = {"features": TERMS[name], "train_sampling_strategy": "sequential"}
        at_once, _ = run(tmp_path, teacher_of(7), **{**plain, "per_device_train_batch_size": 4})
        in_parts, _ = run(tmp_path, teacher_of(7), **{**plain, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4})
        assert_same_weights(at_once, in_parts, tolerance=1e-9)

    def test_evaluation_tells_it(self, name: str, tmp_path: Any) -> None:
        student, trainer = run(tmp_path, pico("llama", seed=7, dtype=torch.float64), features=TERMS[name])
        told = trainer.evaluate(Rows(ROWS))
        teacher, tokens = trainer.teachers[0].model, sum(label != -100 for row in ROWS for label in row["labels"][1:])
        with torch.no_grad():
            expected = float(torch.stack([apart(name, student, teacher, row) for row in ROWS]).sum()) / tokens
        assert told[f"eval_{name}"] == pytest.approx(expected, rel=1e-6)

    def test_several_teachers_are_refused(self, name: str, tmp_path: Any) -> None:
        with pytest.raises(RecipeError, match="one teacher, and there are 2"):
            run(tmp_path, [teacher_of(7), teacher_of(8)], features=TERMS[name])


class TestRefusals:
    @pytest.mark.parametrize("weights", [[0.5, 0.0], [0.5, -1.0], [0.5, float("nan")], [0.5, True], [1.0]])
    def test_weights_that_are_none(self, weights: list[float], tmp_path: Any) -> None:
        with pytest.raises(RecipeError, match="weight"):
            run(tmp_path, [teacher_of(7), teacher_of(8)], teacher_weights=weights)

    @pytest.mark.parametrize(("numbers", "said"), [([0] * 7, "7 rows, and there are 8"), ([0] * 7 + [2], "no teacher 2: there are 2")])
    def test_rows_without_a_teacher(self, numbers: list[int], said: str, tmp_path: Any) -> None:
        with pytest.raises(RecipeError, match=said):
            run(tmp_path, [teacher_of(7), teacher_of(8)], teacher_rows=numbers)

    def test_weights_and_rows_at_once(self, tmp_path: Any) -> None:
        with pytest.raises(RecipeError, match="exclude each other"):
            run(tmp_path, [teacher_of(7), teacher_of(8)], teacher_rows=OF_ROWS, teacher_weights=[1, 1])

    def test_a_teacher_of_another_vocabulary(self, tmp_path: Any) -> None:
        with pytest.raises(VocabularyMismatch):
            run(tmp_path, [teacher_of(7), pico("qwen3", seed=1, dtype=torch.float64, vocab_size=140)])

    @pytest.mark.parametrize("signal", registry.names("signals"))
    def test_what_a_signal_does_not_serve_is_said_in_half_a_sentence(self, signal: str) -> None:
        made_for = registry.load("signals", signal)
        head = head_of(student_of())
        assert made_for.problem(head, True) is None
        for why in filter(
            None,
            [
                made_for.problem(head, False),
                made_for.problem(head_of(pico("llama")), True),
                made_for.problem(head_of(pico("gemma2")).detach(), True),
            ],
        ):
            assert why[0].islower()
            assert not why.endswith(".")

    def test_caches_of_other_rows(self, tmp_path: Any) -> None:
        with pytest.raises(TrainingError, match=r"Row \d has \d+ supervised tokens"):
            run(tmp_path, None, [cached("hidden", 7, tmp_path), cached("hidden", 8, tmp_path)], rows=pico_rows(8, seed=5))
