"""Influence of training examples on a soft prompt: its definition, and examples that are known to be wrong."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
import yaml

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.influence import InfluentialFewShot, influences
from soft2hard.eval.report import load_run
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import command_line, tiny_models
from tests.oracles import held_out_tasks
from tests.paths import ROOT
from tests.tiny_models import WORDS


def tiny_task() -> Task:
    words = WORDS[3:]
    examples = tuple(Example(words[i], words[(i + 5) % len(words)]) for i in range(12))
    return Task("t", "f", "", (), examples[:8], examples[8:], ())


def tiny_prompt() -> SoftPrompt:
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    return SoftPrompt(vectors * tiny_models.subject("llama").embedding.std())


def loss(subject: Subject, vectors: torch.Tensor, examples: list[Example]) -> float:
    """Mean over examples of the mean negative log-likelihood of their tokens."""
    prompt = SoftPrompt(vectors)
    scores = subject.target_scores([Query(prompt, e.input, e.output) for e in examples])
    return sum(-score.log_likelihood / score.n_tokens for score in scores) / len(examples)


def test_influence_is_how_much_a_step_against_an_examples_loss_lowers_the_validation_loss():
    """Finite differences of the losses as the subject itself has them."""
    subject, task, vectors = tiny_models.subject("llama"), tiny_task(), tiny_prompt().embeddings.float()
    found = influences(subject, tiny_prompt(), task)
    for i in (0, 3, 7):
        leaf = vectors.clone().requires_grad_()
        (target,) = [subject.encode_example(task.train[i].input, task.train[i].output, "soft")]
        prefix = torch.cat([subject.lead_embeddings("soft"), leaf])
        targets = subject.scorer.run([prefix], [[target]])
        (gradient,) = torch.autograd.grad(subject.scorer.losses(targets.hidden, targets.ids).mean(), leaf)
        step = 1e-2 / gradient.norm()
        after, before = (loss(subject, vectors + s * step * gradient, task.validation) for s in (-1, 1))
        assert found[i].item() == pytest.approx(((before - after) / (2 * step)).item(), rel=0.02, abs=1e-4)


def test_wrong_examples_are_the_least_influential_of_a_tuned_soft_prompt():
    """A fifth of a task's training outputs are those of other inputs; most of them stand among the lowest fifth."""
    subject = load_for_tuning(embedded_path("subject"))
    (task,) = [task for task in held_out_tasks(15) if task.family == "classify"][:1]
    shown, rng = list(task.train[:40]), Random(0)
    wrong = rng.sample(range(40), 8)
    for i in wrong:
        others = [label for label in task.labels if label != shown[i].output]
        shown[i] = replace(shown[i], output=rng.choice(others))
    spoiled = replace(task, train=tuple(shown))
    (tuned,) = Tuner(subject, Tuning(init="learned", steps=60, batch_size=8, lr=1.2, eval_every=20)).tune([spoiled])
    found = influences(subject, tuned.soft_prompt, spoiled)
    lowest = set(found.argsort()[:8].tolist())
    assert len(lowest & set(wrong)) >= 6


@pytest.mark.parametrize("rank", ["most", "least", "opposed"])
def test_the_prompt_shows_the_examples_that_the_rank_asks_for(rank: str):
    subject, task = tiny_models.subject("llama"), tiny_task()
    method = InfluentialFewShot(k=3, rank=rank)
    (outcome,) = method.run([Case(task, tiny_prompt())], Bench(subject))
    found = influences(subject, tiny_prompt(), task)
    by_rank = {"most": -found, "least": found.abs(), "opposed": found}[rank]
    shown = [block.split("\n")[0].strip() for block in outcome.prompt.split("Input: ")[1:]]
    assert sorted(shown) == sorted(task.train[i].input for i in by_rank.argsort()[:3].tolist())
    assert [one["input"] for one in outcome.trace["shown"]] == shown
    assert outcome.cost.model_calls == len(task.train) + len(task.validation)
    assert outcome.cost.tokens > 0 and outcome.cost.seconds > 0


@pytest.mark.parametrize("rank", ["most", "least", "opposed"])
def test_no_example_is_shown_twice(rank: str):
    """Copies have the same influence, and would else stand together at an end of the order."""
    task = replace(tiny_task(), train=tiny_task().train[:5] * 4)
    (outcome,) = InfluentialFewShot(k=8, rank=rank).run(
        [Case(task, tiny_prompt())], Bench(tiny_models.subject("llama"))
    )
    shown = [one["input"] for one in outcome.trace["shown"]]
    assert sorted(shown) == sorted({e.input for e in task.train})


def test_gemmas_scale_in_a_soft_prompts_vectors_changes_no_influence():
    """Vectors with the factor of the embeddings in them, and the same without, are read alike."""
    subject, task = tiny_models.subject("gemma"), tiny_task()
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    scale = subject.embedding_scale
    with_it, without = SoftPrompt(vectors * scale, scale=scale), SoftPrompt(vectors, scale=1.0)
    torch.testing.assert_close(influences(subject, with_it, task), influences(subject, without, task))


def test_a_template_without_a_place_for_examples_is_refused_before_anything_runs():
    tiny = tiny_models.subject("llama")
    behind = Subject(tiny.model, tiny.tokenizer, name="tiny", template="{input} {prompt} {output}")
    with pytest.raises(UserError, match="has the prompt behind it"):
        InfluentialFewShot().check(Bench(behind))


def test_a_soft_prompt_of_another_subject_fails_its_case_alone():
    method, subject = InfluentialFewShot(k=2), tiny_models.subject("llama")
    cases = [Case(tiny_task(), SoftPrompt(torch.zeros(2, 5))), Case(tiny_task(), tiny_prompt())]
    wide, own = method.run(cases, Bench(subject))
    assert "5 wide" in wide.failure and own.failure is None


def test_the_recipe_sets_both_ends_of_the_order_beside_examples_drawn_at_random(tmp_path: Path):
    settings = yaml.safe_load((ROOT / "recipes" / "influence.yaml").read_text())
    settings["tasks"] |= {"n": 2, "n_test": 4, "n_train": 24}
    settings["tuning"] |= {"steps": 2}
    settings["methods"] = settings["methods"][:6]  # without the translator, which has tests of its own
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    done = command_line.run("evaluate", tmp_path / "tiny.yaml", "-o", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    by_method = load_run(tmp_path / "run").by_method
    shown = {
        name: [one["influence"] for row in by_method[name] for one in row.trace["shown"]]
        for name in by_method
        if "shown" in by_method[name][0].trace
    }
    assert {name: len(values) for name, values in shown.items()} == dict.fromkeys(
        ("most influential", "least influential", "opposed"), 16
    )
    assert min(shown["most influential"][:8]) > max(shown["opposed"][:8])
