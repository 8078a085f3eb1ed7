"""PEZ finds what is there to be found, one case at a time or many at once, within its budget."""

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.discrete import Vocabulary
from soft2hard.eval.methods.pez import Pez, StraightThroughFluency
from soft2hard.eval.metrics.scrutability import log_perplexities, perplexities
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models, tiny_training

WORDS = tiny_models.WORDS[3:]
SMALL = Pez(n_tokens=3, steps=40, batch_size=6, eval_every=5)


def case(number: int, subject: Subject, n_tokens: int = 3) -> Case:
    """A soft prompt that is a sequence of token embeddings, and what the subject writes under it."""
    rng = Random(f"case {number}")
    words = rng.sample(WORDS, n_tokens)
    inputs = [" ".join(rng.choices(WORDS, k=1 + number % 2)) + f" {word}" for word in WORDS]
    outputs = subject.generate([Query(" ".join(words), x) for x in inputs], max_new_tokens=3)
    examples = tuple(Example(x, y) for x, y in zip(inputs, outputs, strict=True))
    task = Task(f"task {number}", "made up", " ".join(words), (), examples[:10], examples[10:], ())
    return Case(task, SoftPrompt(subject.embed_text(task.instruction)))


def llama() -> Subject:
    return tiny_models.subject("llama")


def run(method: Pez, cases: list[Case], subject: Subject, **bench: object) -> list[Outcome]:
    return list(method.run(cases, Bench(subject, **bench)))


def final_losses(outcomes: list[Outcome]) -> list[float]:
    return [min(point["loss"] for point in o.trace["curve"]) for o in outcomes]


# --- it finds the tokens ----------------------------------------------------------------------


def test_a_soft_prompt_of_token_embeddings_is_read_off_when_the_search_starts_there():
    cases = [case(i, llama(), 2 + i % 3) for i in range(5)]
    outcomes = run(replace(SMALL, init="soft_prompt", objective="match", steps=5), cases, llama())
    assert [o.prompt for o in outcomes] == [c.task.instruction for c in cases]
    assert max(final_losses(outcomes)) < 1e-5


def test_a_noisy_soft_prompt_is_cleaned():
    cases = [case(i, llama()) for i in range(4)]
    generator = torch.Generator().manual_seed(0)
    noisy = [
        Case(c.task, SoftPrompt(c.soft_prompt.embeddings + 0.3 * torch.randn(3, 16, generator=generator)))
        for c in cases
    ]
    outcomes = run(replace(SMALL, init="soft_prompt", steps=5), noisy, llama())
    assert [o.prompt for o in outcomes] == [c.task.instruction for c in cases]


def test_matching_outputs_from_random_tokens_finds_the_words_of_the_instruction():
    """On the embedded subject; each result is set against the other tasks' instructions as a control."""
    subject = Subject.from_pretrained(embedded_path("subject"))
    drawn = LexicalDoD().tasks("test", 40)
    tasks = [t for t in drawn if t.family in ("classify", "member", "label", "contains")][:4]
    cases = [Case(t, SoftPrompt(subject.embed_text(t.instruction))) for t in tasks]
    method = Pez(n_tokens=8, steps=80, batch_size=8, eval_every=10, objective="match", max_new_tokens=3)
    outcomes = run(method, cases, subject)
    first = np.mean([o.trace["curve"][0]["loss"] for o in outcomes])
    assert np.mean(final_losses(outcomes)) < first / 5
    ids = [set(Vocabulary(subject).ids(o.prompt)) for o in outcomes]
    gold = [set(Vocabulary(subject).ids(t.instruction)) for t in tasks]
    shared = np.array([[len(found & g) for g in gold] for found in ids])
    assert np.diag(shared).mean() > 2 * shared[~np.eye(len(tasks), dtype=bool)].mean()


# --- perplexity -------------------------------------------------------------------------------


def test_lambda_lowers_perplexity_at_some_cost():
    cases = [case(i, llama()) for i in range(8)]
    plain, fluent = (run(replace(SMALL, perplexity_weight=w), cases, llama()) for w in (0.0, 3.0))
    perplexity, fluent_perplexity = (
        np.mean(log_perplexities(llama(), [o.prompt for o in outcomes])) for outcomes in (plain, fluent)
    )
    assert fluent_perplexity < perplexity - 1
    chosen = [next(p for p in o.trace["curve"] if p["step"] == o.trace["best"][-1]["step"]) for o in fluent]
    assert np.mean([p["loss"] for p in chosen]) > np.mean(final_losses(plain))


def test_the_straight_through_gradient_has_both_roles_of_a_token():
    """GPT-2's output layer is its table, so the log-probability of a token is linear in its embedding, slope h."""
    subject, ids = tiny_models.subject("gpt2"), torch.tensor([[5, 9, 11, 20]])
    points = subject.embed_ids(ids).clone().requires_grad_()
    value = StraightThroughFluency(Vocabulary(subject), subject)(points, ids, torch.ones_like(ids, dtype=torch.bool))
    (found,) = torch.autograd.grad(value.sum(), points)

    read = subject.embed_ids(ids).clone().requires_grad_()
    out = subject.model(inputs_embeds=read, output_hidden_states=True)
    nll = torch.nn.functional.cross_entropy(out.logits[0, :-1], ids[0, 1:])
    (expected,) = torch.autograd.grad(nll, read)
    expected[0, 1:] -= out.hidden_states[-1][0, :-1].detach() / 3
    assert value.item() == pytest.approx(nll.item(), abs=1e-5)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("at", ["the tokens", "points near them"])
def test_each_role_of_a_token_has_a_gradient_of_its_own_and_together_they_are_both(at: str):
    """'read' alone is the gradient by what is read, with fixed tokens to predict, as the published code has it."""
    subject, ids = tiny_models.subject("gpt2"), torch.tensor([[5, 9, 11, 20]])
    real = torch.ones_like(ids, dtype=torch.bool)
    away = torch.randn(1, 4, subject.d_model, generator=torch.Generator().manual_seed(0))
    where = subject.embed_ids(ids) + (0.1 * away if at == "points near them" else 0)
    found = {}
    for roles in ("both", "read", "predicted"):
        points = where.clone().requires_grad_()
        value = StraightThroughFluency(Vocabulary(subject), subject, roles)(points, ids, real)
        (found[roles],) = torch.autograd.grad(value.sum(), points)
    read = where.clone().requires_grad_()
    nll = torch.nn.functional.cross_entropy(subject.model(inputs_embeds=read).logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(found["read"], torch.autograd.grad(nll, read)[0], atol=2e-4, rtol=2e-3)
    if at == "the tokens":
        torch.testing.assert_close(found["read"] + found["predicted"], found["both"], atol=1e-5, rtol=1e-4)
    assert (
        found["predicted"][0, 0].abs().max() == 0 < found["predicted"][0, 1:].abs().min()
    )  # nothing predicts the first


@pytest.mark.parametrize("options", [{"fluency": "perplexity"}, {"fluency_at": "copy"}, {"fluency_roles": "read"}])
def test_every_kind_of_fluency_lowers_perplexity(options: dict[str, str]):
    cases = [case(i, llama()) for i in range(8)]
    weight = 0.3 if "fluency" in options else 3.0
    plain, fluent = (run(m, cases, llama()) for m in (SMALL, replace(SMALL, perplexity_weight=weight, **options)))
    of_plain, of_fluent = (log_perplexities(llama(), [o.prompt for o in outcomes]) for outcomes in (plain, fluent))
    assert np.mean(of_fluent) < np.mean(of_plain) - 0.5


def test_the_weight_multiplies_the_perplexity_or_its_logarithm():
    for fluency, term in (("perplexity", np.exp), ("log_perplexity", float)):
        method = replace(SMALL, steps=10, perplexity_weight=0.25, fluency=fluency)
        [outcome] = run(method, [case(0, llama())], llama())
        at = {point["step"]: point for point in outcome.trace["curve"]}
        for best in outcome.trace["best"]:
            point = at[best["step"]]
            expected = -point["loss"] - 0.25 * term(point["log_perplexity"])
            assert best["score"] == pytest.approx(expected, rel=1e-5)


# --- optimizers, aims, lengths ------------------------------------------------------------------


def test_each_optimizer_comes_with_its_published_settings_unless_others_are_given():
    assert Pez().stepping == (0.1, 0.1, None)
    assert Pez(optimizer="adafactor").stepping == (0.3, 0.0, 1.0)
    assert Pez(optimizer="adafactor", lr=0.5, weight_decay=0.1, clip=2.0).stepping == (0.5, 0.1, 2.0)


def test_adafactor_finds_what_is_to_be_found_and_batch_mates_change_nothing():
    """Adafactor scales a step by all entries of a parameter: those of another case must not be among them."""
    cases = [case(i, llama(), 2 + i % 2) for i in range(4)]
    method = replace(SMALL, optimizer="adafactor", n_tokens="soft_prompt", steps=20)
    together = run(method, cases, llama())
    for one, other in zip(together, [run(method, [c], llama())[0] for c in cases], strict=True):
        assert [p["prompt"] for p in one.trace["curve"]] == [p["prompt"] for p in other.trace["curve"]]
        losses = [[p["loss"] for p in o.trace["curve"]] for o in (one, other)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert [len(Vocabulary(llama()).ids(o.prompt)) for o in together] == [2, 3, 2, 3]
    first = np.mean([o.trace["curve"][0]["loss"] for o in together])
    assert np.mean(final_losses(together)) < first - 0.2


def test_the_least_is_made_of_the_task_by_wish():
    cases = [case(i, llama()) for i in range(4)]
    best, worst = (run(replace(SMALL, aim=aim), cases, llama()) for aim in ("maximise", "minimise"))
    highest = [max(point["loss"] for point in o.trace["curve"]) for o in worst]
    assert [-o.trace["best"][-1]["score"] for o in best] == final_losses(best)
    assert [o.trace["best"][-1]["score"] for o in worst] == highest
    assert np.mean(highest) > np.mean([o.trace["curve"][0]["loss"] for o in worst]) + 0.5 > np.mean(final_losses(best))


# --- figures by step ----------------------------------------------------------------------------


def test_every_look_has_the_score_and_the_perplexity_of_its_prompt_and_costs_nothing():
    cases, reference = [case(i, llama()) for i in range(2)], tiny_models.subject("gpt2", seed=3)
    outcomes = run(replace(SMALL, steps=10), cases, llama(), reference=reference)
    for one, outcome in zip(cases, outcomes, strict=True):
        examples = one.task.validation
        assert [point["step"] for point in outcome.trace["curve"]] == [0, 5, 10]
        for point in outcome.trace["curve"]:
            written = llama().generate([Query(point["prompt"], e.input) for e in examples], max_new_tokens=16)
            assert point["score"] == np.mean([w == e.output for w, e in zip(written, examples, strict=True)])
            assert point["perplexity"] == pytest.approx(perplexities(reference, [point["prompt"]])[0], rel=1e-4)
    assert {o.cost.model_calls for o in outcomes} == {10 * 6 + 3 * len(cases[0].task.validation)}
    assert "perplexity" not in run(replace(SMALL, steps=5), cases[:1], llama())[0].trace["curve"][0]


def test_another_reference_with_the_vocabulary_serves():
    subject = tiny_models.subject("gpt2")
    other = tiny_models.subject("gpt2", seed=3)
    cases = [case(i, subject) for i in range(6)]
    plain, fluent = (
        run(replace(SMALL, perplexity_weight=w, steps=30), cases, subject, reference=other) for w in (0.0, 3.0)
    )
    of_plain, of_fluent = (log_perplexities(other, [o.prompt for o in outcomes]) for outcomes in (plain, fluent))
    assert np.mean(of_fluent) < np.mean(of_plain) - 1


def with_other_words() -> Subject:
    words = {word: i for i, word in enumerate([*tiny_models.SPECIAL, *tiny_models.WORDS[::-1]])}
    tokens = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokens.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>", unk_token="<unk>")
    return Subject(tiny_models.model("gpt2"), tokenizer, name="backwards")


@pytest.mark.parametrize("reference", [with_other_words(), tiny_models.subject("t5")])
def test_a_reference_that_cannot_serve_is_refused_before_anything_runs(reference: Subject):
    method = replace(SMALL, perplexity_weight=1.0)
    bench = Bench(llama(), reference=reference)
    with pytest.raises(UserError, match="vocabulary|encoder-decoder"):
        method.run([case(0, llama())], bench)  # not even asked for an outcome
    method = replace(method, perplexity_lm="subject", steps=2)
    assert next(method.run([case(0, llama())], bench)).prompt


# --- batches, seeds, budgets ------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_batch_mates_change_nothing_and_seeds_reproduce(architecture: str):
    subject = tiny_models.subject(architecture)
    cases = [case(i, subject, 2 + i % 2) for i in range(4)]
    method = replace(SMALL, steps=12, init="soft_prompt", objective="match")
    if architecture == "llama":
        method = replace(method, perplexity_weight=0.1, init="vocabulary")
    together = run(method, cases, subject)
    for alone in ([run(method, [c], subject)[0] for c in cases], run(replace(method, slots=3), cases, subject)):
        for one, other in zip(together, alone, strict=True):
            assert one.prompt == other.prompt
            assert one.cost.model_calls == other.cost.model_calls and one.cost.tokens == other.cost.tokens
            losses = [[p["loss"] for p in o.trace["curve"]] for o in (one, other)]
            assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    if architecture == "llama":
        other_seed = run(method, cases, subject, seed=1)
        assert [o.trace["curve"][0] for o in other_seed] != [o.trace["curve"][0] for o in together]


def test_costs_are_counted_and_calls_and_seconds_stop_the_search():
    cases = [case(i, llama()) for i in range(2)]
    n = len(cases[0].task.validation)
    free, limited, late = (
        run(SMALL, cases, llama(), **budget) for budget in ({}, {"max_model_calls": 100}, {"max_seconds": 1e-6})
    )
    assert free[0].cost.model_calls == 40 * 6 + 9 * n
    examples = [
        len(llama().encode_input(e.input, "hard").body) + len(llama().encode_output(e.output)) - 1
        for e in (*cases[0].task.train, *cases[0].task.validation)
    ]
    assert free[0].cost.tokens == 40 * 4 + 24 * sum(examples[:10]) + 9 * (4 + sum(examples[10:]))
    assert all(60 < o.cost.model_calls <= 100 and o.prompt for o in limited)
    assert all(o.cost.model_calls == n and o.prompt for o in late)


def test_what_the_reference_reads_for_perplexity_is_part_of_the_cost():
    subject, reference = tiny_models.subject("gpt2"), tiny_models.subject("gpt2", seed=3)
    cases = [case(i, subject, 2 + i) for i in range(2)]
    method = replace(SMALL, steps=10, init="soft_prompt")
    read = Counter()

    def note(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        mask = kwargs["attention_mask"]
        read["model_calls"] += len(kwargs["inputs_embeds"])
        # Of four dimensions it is added to the attention; the last token of a row attends to all that is no padding.
        read["tokens"] += int((mask[:, 0] == 0).sum(-1).amax(-1).sum() if mask.ndim == 4 else mask.sum())

    _ = reference.scorer.shares_prefixes  # the trial behind it is no case's cost
    hook = reference.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    plain = run(method, cases, subject, reference=reference)
    of_curves = read.copy()  # for the reader alone, and no part of the search
    fluent = run(replace(method, perplexity_weight=1e-9), cases, subject, reference=reference)  # the same search
    hook.remove()
    assert [o.prompt for o in fluent] == [o.prompt for o in plain]
    for what in ("model_calls", "tokens"):
        more = sum(getattr(o.cost, what) for o in fluent) - sum(getattr(o.cost, what) for o in plain)
        assert more == read[what] - 2 * of_curves[what]
    assert read["model_calls"] - 2 * of_curves["model_calls"] == 2 * (10 + 3)  # a gradient a step, and three looks
    limited = run(replace(method, perplexity_weight=1.0), cases, subject, reference=reference, max_model_calls=60)
    assert all(40 < o.cost.model_calls <= 60 for o in limited)


def test_a_case_that_cannot_be_searched_leaves_the_others_alone():
    good, bad = case(0, llama()), case(1, llama())
    long = Example(" ".join(["cat"] * 70), "dog")
    bad = Case(replace(bad.task, train=(long,)))
    outcomes = run(replace(SMALL, steps=5), [bad, good], llama())
    assert "the subject reads 64" in outcomes[0].failure and outcomes[0].prompt is None
    assert outcomes[1].prompt == run(replace(SMALL, steps=5), [good], llama())[0].prompt


def test_the_best_text_so_far_is_returned_and_special_tokens_are_never_written():
    outcomes = run(SMALL, [case(i, llama()) for i in range(4)], llama())
    for outcome in outcomes:
        best = outcome.trace["best"]
        assert outcome.prompt == best[-1]["prompt"]
        assert best[-1]["score"] == -min(final_losses([outcome]))
        assert [b["score"] for b in best] == sorted(b["score"] for b in best)
        assert not any(token in b["prompt"] for b in best for token in tiny_models.SPECIAL)


def test_options_out_of_range_are_refused_and_needs_follow_options():
    for wrong in ({"steps": 0}, {"lr": 0.0}, {"unit": "inch"}, {"objective": "both"}, {"perplexity_weight": -1.0}):
        with pytest.raises(UserError):
            Pez(**wrong)
    assert "soft_prompt" not in Pez().needs and "soft_prompt" in Pez(objective="match").needs
    assert "soft_prompt" in Pez(n_tokens="soft_prompt").needs


def test_projection_is_to_the_writable_token_with_the_highest_cosine():
    subject = tiny_training.llama_subject()
    vocabulary = Vocabulary(subject)
    vectors = torch.randn(7, subject.d_model, generator=torch.Generator().manual_seed(0))
    table = subject.embedding.numpy()
    for vector, found in zip(vectors.numpy(), vocabulary.nearest(vectors).tolist(), strict=True):
        cosines = table @ vector / np.linalg.norm(table, axis=1) / np.linalg.norm(vector)
        assert found == 4 + int(cosines[4:].argmax())  # the first four are special
