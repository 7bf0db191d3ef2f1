"""Teachers that are corrected where they are wrong: the weight of each label, cached and online, against the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pico import Rows, arguments, assert_same_weights, losses, model_gradients, pico, pico_rows
from test_distillation_trainer import batch_of, teacher_for
from workshop import Workshop

from finetune import Recipe
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.teachers.correction import corrected, margins
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import RecipeError
from finetune.events import Notice
from finetune.training.head import head_of, hidden_states


def textbook(student: Any, teacher: Any, rows: list[dict[str, Any]], alpha: float, by: float) -> torch.Tensor:
    """alpha CE + (1 - alpha) KL(q' || p) at temperature 1, with q' written as in the paper, less what does not depend on the student."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        log_p = student(input_ids=ids).logits[0].log_softmax(-1)
        with torch.no_grad():
            q = teacher(input_ids=ids).logits[0].softmax(-1)
        for place, label in enumerate(row["labels"][1:]):
            if label == -100:
                continue
            this, onehot = q[place], torch.nn.functional.one_hot(torch.tensor(label), q.shape[-1]).double()
            ahead = this.max() - this[label]
            m = 0.0 if this.argmax() == label else (ahead + by) / (1 + ahead)
            mixed = (1 - m) * this + m * onehot
            if m:
                assert float(mixed[label] - mixed[this.argmax()]) == pytest.approx(by)
            entropy = (1 - m) * (this * this.log()).sum()
            total = total - alpha * log_p[place, label] + (1 - alpha) * (entropy - (mixed * log_p[place]).sum())
            count += 1
    return total / count


def own_rows(teacher: Any, count: int = 6) -> list[dict[str, Any]]:
    """Rows in which every second label is the teacher's first choice."""
    rows = pico_rows(count)
    for row in rows:
        for place in range(2, len(row["input_ids"]), 2):
            with torch.no_grad():
                row["input_ids"][place] = int(teacher(torch.tensor([row["input_ids"][:place]])).logits[0, -1].argmax())
            row["labels"][place] = row["input_ids"][place] if row["labels"][place] != -100 else -100
    return rows


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("by", [0.2, 1.0])
def test_the_loss_and_its_gradients_are_those_of_the_paper(alpha: float, by: float, tmp_path) -> None:
    student, teacher = pico("llama", dtype=torch.float64), teacher_for("llama")
    rows = own_rows(teacher)
    settings = {"temperature": 1.0, "alpha": alpha, "correct": by}
    trainer = DistillationTrainer(student, arguments(tmp_path), teacher_model=teacher, train_dataset=Rows(rows), **settings)
    ours, theirs = trainer.compute_loss(student, batch_of(rows)), textbook(student, teacher, rows, alpha, by)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    mine, reference = model_gradients(student, ours), model_gradients(student, theirs)
    for name, gradient in reference.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["hidden", "gradient"])
def test_cached_is_online(kind: str, tmp_path) -> None:
    found = []
    for online in (True, False):
        student, teacher = pico("qwen3", dtype=torch.float64), teacher_for("qwen3")
        student.get_output_embeddings().weight.requires_grad_(False)
        rows = own_rows(teacher)
        said: dict[str, Any] = {"teacher_model": teacher} if online else {}
        if not online:
            said["cache"] = build_cache(kind, teacher, rows, tmp_path / kind, student_head=head_of(student), temperature=2.0, margins=True)
        trainer = DistillationTrainer(student, arguments(tmp_path), train_dataset=Rows(rows), correct=0.2, **said)
        trainer.train()
        found.append((student, losses(trainer)))
    (one, first), (other, second) = found
    assert first == pytest.approx(second, rel=1e-6)
    assert_same_weights(one, other, tolerance=1e-6)


def test_a_teacher_that_is_right_is_left_alone() -> None:
    teacher = teacher_for("llama")
    (row,) = own_rows(teacher, 1)
    ids = torch.tensor([row["input_ids"]])
    found = margins(hidden_states(teacher, ids)[0, :-1].detach(), head_of(teacher).detach(), ids[0, 1:])
    q = teacher(ids).logits[0, :-1].softmax(-1)
    expected = q.amax(-1) - q.gather(1, ids[0, 1:, None]).squeeze(1)
    torch.testing.assert_close(found, expected)
    assert (found == 0).any()
    assert (found > 0).any()
    alphas = corrected(0.1, found, 0.2)
    assert torch.equal(alphas == torch.tensor(0.1, dtype=torch.float64), found == 0)
    assert alphas.max() <= 1


def test_a_run_says_how_often_it_corrects_and_keeps_its_cache_apart(tmp_path) -> None:
    shop = Workshop(tmp_path)
    for correct in (0.0, 0.2, 0.4):
        tuner = shop.tuner(shop.distilling(distillation={"correct": correct}))
        tuner.run()
    assert len(list((shop.runtime.cache_dir / "teachers").glob("*/index.json"))) == 2
    said = [event.text for event in tuner.context.reporter.reporters[0].of(Notice)]
    assert any("first choice is wrong for" in text for text in said)
    assert "was put ahead of it by 0.4" in (tuner.folder.output_dir / "README.md").read_text()
    assert "corrected by 0.4" in (tuner.folder.output_dir / "run" / "report.html").read_text()


def test_refusals(tmp_path) -> None:
    teacher, rows = teacher_for("llama"), pico_rows(4)
    cache = build_cache("hidden", teacher, rows, tmp_path / "cache")
    with pytest.raises(RecipeError, match="built without what `correct` needs"):
        DistillationTrainer(pico("llama"), arguments(tmp_path), cache=cache, train_dataset=Rows(rows), correct=0.2)
    with pytest.raises(RecipeError, match="there are several"):
        DistillationTrainer(pico("llama"), arguments(tmp_path), teacher_model=[teacher, teacher], train_dataset=Rows(rows), correct=0.2)
    with pytest.raises(RecipeError, match=r"distillation\.correct"):
        Recipe.from_layers({"approach": "distillation", "distillation": {"correct": 1.5}})
    several = {"approach": "distillation", "teachers": ["gpt2", "gpt2-medium"]}
    with pytest.raises(RecipeError, match=r"`distillation\.correct`"):
        Recipe.from_layers({**several, "model": "gpt2-large", "distillation": {"correct": 0.2}})
    for other, said in (("self", "the model itself"), ({"source": "gpt2", "system": "Be short."}, "`system`")):
        with pytest.raises(RecipeError, match=said):
            Recipe.from_layers({**several, "teachers": ["gpt2-medium", other]})
