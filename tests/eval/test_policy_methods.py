"""RLPrompt and PIN: their losses and policies by definition, their rewards by hand, and that they learn."""

from collections.abc import Iterable
from dataclasses import replace
from math import exp, log
from random import Random
from unittest.mock import patch

import numpy as np
import pytest
import torch

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.cases import drawn_tasks
from soft2hard.eval.config import Tasks
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.discrete import Meter, Vocabulary, Writing
from soft2hard.eval.methods.options import PolicyOptions
from soft2hard.eval.methods.policies import Pin, Rewards, RLPrompt, Trials
from soft2hard.eval.methods.q_learning import (
    Policies,
    PolicyLM,
    ShannonEntropy,
    TaskNetworks,
    TsallisEntropy,
    path_consistency_loss,
    sample,
    z_scores,
)
from soft2hard.eval.metrics.scrutability import log_perplexities
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from tests import tiny_models, tiny_tokenizers

WORDS = tiny_models.WORDS[3:]
SMALL = {"n_tokens": 3, "steps": 60, "batch": 8, "examples": 6, "lr": 5e-3, "hidden": 32, "polyak": 0.05}
FAST = RLPrompt(**SMALL)
FAST_PIN = Pin(**SMALL, k=30_000)


def llama() -> Subject:
    return tiny_models.subject("llama")


def case(number: int, labels: tuple[str, ...] | None = None, metric: str = "exact_match") -> Case:
    """What the subject writes under a random prompt, or a random label for each input."""
    rng = Random(f"case {number}")
    prompt = " ".join(rng.sample(WORDS, 3))
    inputs = [" ".join(rng.choices(WORDS, k=1 + number % 2)) + f" {word}" for word in WORDS]
    written = llama().generate([Query(prompt, x) for x in inputs], max_new_tokens=2)
    outputs = [rng.choice(labels) for _ in inputs] if labels else written
    examples = tuple(Example(x, y) for x, y in zip(inputs, outputs, strict=True))
    return Case(Task(f"task {number}", "made up", "", (), examples[:8], examples[8:14], (), labels, metric))


def run(method: RLPrompt | Pin, cases: list[Case], **bench: object) -> list[Outcome]:
    return list(method.run(cases, Bench(llama(), **bench)))


def rewards(weight: float = 0.0) -> Rewards:
    return Rewards(llama(), llama(), replace(FAST, perplexity_weight=weight))


# --- losses and policies, by definition -------------------------------------------------------


def test_soft_q_learning_losses_by_hand_on_two_tokens():
    """Two positions, two tokens; every value is written out."""
    q = [[0.0, log(3.0)], [log(2.0), 0.0]]
    target = [[log(4.0), 0.0], [0.0, log(7.0)]]
    actions, reward = [1, 0], 2.0
    v, v_dash = [log(4.0), log(3.0)], [log(5.0), log(8.0)]
    a = [log(3.0) - log(4.0), log(2.0) - log(3.0)]
    single = (a[0] - (v_dash[1] - v_dash[0])) ** 2 + (a[1] - (reward - v_dash[1])) ** 2
    multi = (a[0] + a[1] - (reward - v_dash[0])) ** 2 + (a[1] - (reward - v_dash[1])) ** 2
    a_dash = [0.0 - log(5.0), 0.0 - log(8.0)]
    back_single = (a_dash[0] - (v[1] - v[0])) ** 2 + (a_dash[1] - (reward - v[1])) ** 2
    back_multi = (a_dash[0] + a_dash[1] - (reward - v[0])) ** 2 + (a_dash[1] - (reward - v[1])) ** 2

    tensors = torch.tensor([q]), torch.tensor([target]), torch.tensor([actions]), torch.tensor([reward])
    for reverse in (0.0, 0.3, 1.0):
        expected = (1 - reverse) * (single + multi) / 2 + reverse * (back_single + back_multi) / 2
        found = path_consistency_loss(*tensors, ShannonEntropy(2), reverse)
        assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("entropy", [ShannonEntropy(99), TsallisEntropy()])
def test_consistent_q_values_have_no_loss(entropy: ShannonEntropy | TsallisEntropy):
    """Q(a) after the last token is the reward, before it the value of what follows."""
    table = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))  # reward of each prompt of two tokens
    last = table
    first = entropy.value(last)
    for i in range(3):
        for j in range(3):
            q = torch.stack([first, last[i]])[None]
            loss = path_consistency_loss(q, q, torch.tensor([[i, j]]), table[i, j][None], entropy, 0.5)
            assert loss.item() < 1e-10


def test_the_sparse_policy_is_the_nearest_point_of_the_simplex():
    """Sparsemax by its definition: of all distributions, the one nearest to the Q-values."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 5.0):
        q = scale * torch.randn(8, generator=generator)
        p = TsallisEntropy().policy(q)
        assert p.sum().item() == pytest.approx(1, abs=1e-6) and (p >= 0).all()
        others = torch.distributions.Dirichlet(torch.full((8,), 0.3)).sample((2000,))
        blends = 0.99 * p + 0.01 * others
        assert (p - q).square().sum() <= torch.cat([others, blends]).sub(q).square().sum(-1).min() + 1e-6
        # The value is what the policy gets: expected Q plus Tsallis entropy, half of 1 - sum of p^2.
        expected = (p * q).sum() + (1 - p.square().sum()) / 2
        assert TsallisEntropy().value(q).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_sparse_policy_is_exactly_zero_where_its_theory_says_and_softmax_nowhere():
    q = torch.tensor([1.0, 0.9, 0.2, -0.3, -torch.inf])
    # Support: 1 + k z_k > z_1 + ... + z_k holds for k = 1, 2, 3 (1.6 > 2.1 fails), so two tokens share.
    assert TsallisEntropy().policy(q).tolist() == pytest.approx([0.55, 0.45, 0, 0, 0])
    assert (TsallisEntropy().policy(q)[2:] == 0).all()
    assert (ShannonEntropy(5).policy(q)[:4] > 0).all()


def test_gradients_of_values_are_policies():
    """The envelope theorem, for both entropies, with an action that is not allowed."""
    for entropy in (ShannonEntropy(99), TsallisEntropy()):
        q = torch.tensor([0.3, 0.5, -0.4, 0.1, -torch.inf]).requires_grad_()
        (gradient,) = torch.autograd.grad(entropy.value(q), q)
        torch.testing.assert_close(gradient, entropy.policy(q).detach())


def test_only_the_top_k_tokens_are_sampled_and_never_one_of_probability_zero():
    q = torch.randn(2, 500, 30, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    for entropy in (ShannonEntropy(4), TsallisEntropy()):
        probabilities = entropy.policy(q)
        drawn = sample(probabilities, generators)
        assert (probabilities.gather(-1, drawn[..., None]) > 0).all()
    best = q.topk(4, dim=-1).indices
    assert (sample(ShannonEntropy(4).policy(q), generators)[..., None] == best).any(-1).all()
    same = torch.tensor([0.2, 0.0, 0.5, 0.3]).expand(2, 4000, 4)
    shares = [np.bincount(row, minlength=4) / 4000 for row in sample(same, generators).numpy()]
    assert np.abs(np.array(shares) - [0.2, 0, 0.5, 0.3]).max() < 0.03


def test_z_scores_are_within_a_task():
    found = z_scores(torch.tensor([[1.0, 2.0, 3.0], [10.0, 10.0, 10.0]]))
    torch.testing.assert_close(found[0], torch.tensor([-1.0, 0.0, 1.0]) / (2 / 3) ** 0.5, atol=1e-3, rtol=0)
    assert (found[1] == 0).all()


# --- the policy LM ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "bloom"])
def test_states_are_the_frozen_lms_hidden_states_and_the_filter_leaves_its_likeliest_tokens(architecture: str):
    subject = tiny_models.subject(architecture)
    lm = PolicyLM(subject, Vocabulary(subject).writable, None)
    networks = TaskNetworks([torch.Generator().manual_seed(i) for i in range(2)], lm.d_out, 8, 1e-3, 5.0)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    rollout = Policies(lm, networks, 7).roll_out(2, 5, 4, lambda q: sample(TsallisEntropy().policy(q), generators))
    for task in range(2):
        for row in range(5):
            ids = rollout.actions[task, row].tolist()
            logits = subject.model(torch.tensor([[1, *ids[:-1]]])).logits[0]
            logits[:, :4] = -torch.inf  # special tokens
            allowed = logits >= logits.sort(descending=True).values[:, 6:7]
            assert (rollout.allowed[task, row] == allowed).all() and allowed.sum() == 4 * 7
            assert allowed[torch.arange(4), ids].all()


def test_networks_start_small_learn_alone_and_are_followed_by_their_targets():
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    networks = TaskNetworks(generators, 4, 6, 0.1, 5.0)
    assert max(p.abs().max().item() for p in networks.parameters) < 1.1e-4
    before = [p.detach().clone() for p in networks.parameters]
    states = torch.randn(3, 5, 4, generator=generators[0])
    networks.step((networks(states) - 1).square().sum((1, 2)) * torch.tensor([1.0, 0.0, 1.0]))
    changed = [(p != b).flatten(1).any(1).tolist() for p, b in zip(networks.parameters, before, strict=True)]
    assert changed[-1] == [True, False, True]
    networks.follow(0.25)
    for target, old, new in zip(networks.target, before, networks.parameters, strict=True):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * new.detach())


# --- rewards ----------------------------------------------------------------------------------


def score(of: Rewards, task: Task, text: str, labels: tuple[str, ...] = ()) -> float:
    trials = Trials.of(llama(), task.train, labels, Meter(None))
    of.score([(trials, text), (trials, text)])
    assert trials.meter.calls == len(task.train) * max(1, len(labels)) + bool(of.options.perplexity_weight)
    return trials.rewards[text]


def test_the_reward_by_labels_is_the_piecewise_gap():
    labels = ("cat", "dog", "red")
    task = case(0, labels).task
    gaps = []
    for example in task.train:
        found = {y: llama().target_scores([Query("up down", example.input, y)])[0].log_likelihood for y in labels}
        total = sum(exp(value) for value in found.values())
        own = exp(found[example.output]) / total
        gaps.append(own - max(exp(found[y]) / total for y in labels if y != example.output))
    expected = np.mean([gap * (200 if gap > 0 else 180) for gap in gaps])
    assert score(rewards(), task, "up down", labels) == pytest.approx(expected, rel=1e-3)


def test_the_reward_by_outputs_is_the_gap_of_every_token_and_positive_throughout_where_greedy_writes_it():
    task = case(1).task
    per_example = []
    for example in task.train:
        query = Query("up down", example.input, example.output)
        rows = llama().target_distributions([query])[0].exp()
        ids = llama().encode_output(example.output)
        gaps = [
            2 * row[i] - row[[j for j in range(len(row)) if j != i]].max() - row[i]
            for row, i in zip(rows, ids, strict=True)
        ]
        assert all(gap > 0 for gap in gaps) == llama().target_scores([query])[0].greedy_match
        per_example.append(np.mean([float(gap) * (200 if gap > 0 else 180) for gap in gaps]))
    assert score(rewards(), task, "up down") == pytest.approx(np.mean(per_example), rel=1e-3)


def test_alpha_takes_perplexity_off_up_to_the_size_of_the_vocabulary():
    task, subject = case(1).task, llama()
    texts = [" ".join(Random(i).choices(WORDS, k=3)) for i in range(6)]
    values = log_perplexities(subject, texts)
    assert min(values) < log(tiny_models.VOCAB_SIZE) < max(values)
    for text, value in zip(texts, values, strict=True):
        charge = 0.5 * min(exp(value), tiny_models.VOCAB_SIZE)
        assert score(rewards(0.5), task, text) == pytest.approx(score(rewards(), task, text) - charge, rel=1e-4)


def test_the_reward_by_cross_entropy_is_the_mean_log_probability_of_the_label_or_of_the_outputs_tokens():
    labels = ("cat", "dog", "red")
    by_cross_entropy = Rewards(llama(), llama(), replace(FAST, reward_form="cross_entropy"))
    task = case(0, labels).task
    values = []
    for example in task.train:
        found = {y: llama().target_scores([Query("up down", example.input, y)])[0].log_likelihood for y in labels}
        values.append(found[example.output] - log(sum(map(exp, found.values()))))
    assert score(by_cross_entropy, task, "up down", labels) == pytest.approx(np.mean(values), rel=1e-3)
    task = case(1).task
    scored = [llama().target_scores([Query("up down", e.input, e.output)])[0] for e in task.train]
    n_tokens = [len(llama().encode_output(e.output)) for e in task.train]
    expected = np.mean([one.log_likelihood / n for one, n in zip(scored, n_tokens, strict=True)])
    assert score(by_cross_entropy, task, "up down") == pytest.approx(expected, rel=1e-3)


def test_the_weight_of_accuracy_and_the_aim_multiply_the_tasks_reward_alone():
    task = case(1).task
    plain, charge = (
        score(rewards(), task, "up down"),
        score(rewards(), task, "up down") - score(rewards(0.5), task, "up down"),
    )
    for changes, factor in (
        ({"accuracy_weight": 0.25}, 0.25),
        ({"aim": "minimise"}, -1),
        ({"accuracy_weight": 0.0}, 0),
    ):
        trials = Trials.of(llama(), task.train, (), Meter(None))
        Rewards(llama(), llama(), replace(FAST, perplexity_weight=0.5, **changes)).score([(trials, "up down")])
        assert trials.rewards["up down"] == pytest.approx(factor * plain - charge, rel=1e-4)
        assert trials.meter.calls == 1 + len(task.train) * (factor != 0)  # what counts for nothing is not run
    with pytest.raises(UserError, match="nothing is rewarded"):
        RLPrompt(accuracy_weight=0.0)


def test_by_perplexity_alone_prompts_become_natural_and_by_the_other_aim_bad():
    cases = [case(i) for i in range(3)]
    plain, natural, bad = (
        run(replace(FAST, **changes), cases)
        for changes in ({}, {"accuracy_weight": 0.0, "perplexity_weight": 1.0}, {"aim": "minimise"})
    )
    before, after = (np.mean(log_perplexities(llama(), [o.prompt for o in x])) for x in (plain, natural))
    assert after < before - 0.5
    of_plain, of_bad = (
        np.mean([score(rewards(), c.task, o.prompt) for c, o in zip(cases, found, strict=True)])
        for found in (plain, bad)
    )
    assert of_bad < of_plain - 20


def test_every_look_has_the_score_and_the_perplexity_of_its_prompt():
    reference = tiny_models.subject("gpt2")
    [outcome] = run(replace(FAST, steps=20), [case(1)], reference=reference)
    assert [point["step"] for point in outcome.trace["curve"]] == [10, 20]
    for point in outcome.trace["curve"]:
        examples = case(1).task.validation
        written = llama().generate([Query(point["prompt"], e.input) for e in examples], max_new_tokens=16)
        assert point["score"] == np.mean([w == e.output for w, e in zip(written, examples, strict=True)])
        assert point["perplexity"] == pytest.approx(exp(log_perplexities(reference, [point["prompt"]])[0]), rel=1e-4)


def test_the_kind_of_reward_follows_labels_and_metric_and_can_be_set():
    labels = ("cat", "dog", "red")
    cases = [case(0, labels, "label_accuracy"), case(1, labels), case(2)]
    short = replace(FAST, steps=1, batch=2)
    calls = [o.cost.model_calls for o in run(short, cases)]
    assert calls[0] > 2 * calls[1]
    assert run(replace(short, reward="labels"), cases[1:2])[0].cost.model_calls > 2 * calls[1]
    failed, kept = run(replace(short, reward="labels"), [cases[2], cases[0]])
    assert "label" in failed.failure and kept.prompt
    assert "labels" in RLPrompt(reward="labels").needs and "labels" not in RLPrompt().needs


# --- they learn -------------------------------------------------------------------------------


def test_each_raises_its_reward_well_above_the_best_of_as_many_random_prompts():
    """Means over validation tasks of three families on the embedded subject; rewards are of 200 at most."""
    path = embedded_path("subject")
    bench = Bench(Subject.from_pretrained(path), load_for_tuning(path))
    tasks = drawn_tasks(Tasks(dod="lexical", n=1, n_validation=6, n_train=256), "validation", bench.seed)
    settings = {"steps": 100, "batch": 16, "examples": 4, "hidden": 256, "polyak": 0.1, "eval_every": 100}
    rlprompt = RLPrompt(**settings, lr=6e-3, reward_scale=15.0, clip=50.0)
    pin = Pin(**settings, lr=4e-3, k=40_000, reward_scale=5.0)
    found, support, sampled = {}, {}, {}
    for method in (rlprompt, pin):
        ends = [outcome.trace["curve"][-1] for outcome in method.run([Case(task) for task in tasks], bench)]
        found[method.name], support[method.name], sampled[method.name] = (
            np.mean([end[key] for end in ends]) for key in ("best_reward", "support", "mean_reward")
        )
    own = Writing(bench.subject, bench.subject.tokenizer)
    best, mean = np.mean([random_rewards(task, bench, rlprompt, own) for task in tasks], axis=0)
    print(f"best {found}, support {support}, sampled {sampled}; random: best {best}, mean {mean}")
    # Over four seeds RLPrompt was 27 to 52 above random prompts, PIN 32 to 50; means 38, standard deviations 11 and 8.
    # 15 is two of them below, and about what 3.5 times as many random prompts gain (8 to 21).
    assert found["rlprompt"] > best + 15
    assert found["pin"] > best + 15
    assert min(sampled.values()) > mean + 80
    assert support["pin"] < 100 < support["rlprompt"]  # of 557 tokens that are not ignorable, of the top 256


def random_rewards(task: Task, bench: Bench, like: PolicyOptions, writing: Writing) -> tuple[float, float]:
    """The best and the mean reward of as many random prompts as a method samples, on the examples that it learns from.

    Tokens are drawn from all that the policy may write.
    """
    subject, rng, tokens = bench.fast_subject, Random(f"random {bench.seed}/{task.name}"), writing.tokens.tolist()
    shown = Random(f"{bench.seed}/{task.name}").sample(task.train, like.examples)
    trials = Trials.of(subject, shown, (), Meter(None))
    texts = [writing.text(rng.choices(tokens, k=like.n_tokens)) for _ in range(like.steps * like.batch)]
    Rewards(subject, subject, like).score([(trials, text) for text in texts])
    return max(trials.rewards.values()), float(np.mean(list(trials.rewards.values())))


# --- policies of other vocabularies -----------------------------------------------------------


SENTENCES = [" ".join(Random(i).choices(WORDS, k=6)) for i in range(200)]


def opt(texts: Iterable[str], vocab_size: int = 400, **changes: object) -> Subject:
    """A random OPT that writes byte-level pieces of these texts."""
    tokenizer = tiny_tokenizers.tokenizer("opt", texts, vocab_size)
    return Subject(tiny_models.model("opt", vocab_size=len(tokenizer), **changes), tokenizer, name="tiny-opt")


def test_pin_with_a_random_opt_of_another_vocabulary_rewards_above_as_many_random_prompts():
    """Means over three tasks and three seeds; OPT writes bytes and pieces of words, the subject reads its 20 words."""
    policy = opt(SENTENCES, hidden_size=64, word_embed_proj_dim=64, ffn_dim=64)
    settings = {"n_tokens": 6, "steps": 150, "batch": 8, "examples": 6, "hidden": 32, "polyak": 0.1, "eval_every": 150}
    pin = Pin(**settings, lr=3e-4, k=50_272, reward_scale=5.0, policy="reference")
    cases = [case(i) for i in range(3)]
    found, random = [], []
    for seed in range(3):
        bench = Bench(llama(), reference=policy, seed=seed)
        ends = [outcome.trace["curve"][-1] for outcome in pin.run(cases, bench)]
        found += [(end["best_reward"], end["mean_reward"]) for end in ends]
        random += [random_rewards(c.task, bench, pin, Writing(policy, llama().tokenizer)) for c in cases]
    better, sampled = np.mean(np.array(found) - np.array(random), axis=0)
    print(f"best and mean reward above those of random prompts by {better:.1f} and {sampled:.1f} of 200")
    assert better > 0
    assert sampled > 15


def test_prompts_cross_three_vocabularies_as_texts():
    policy = opt([" ".join(WORDS)])
    judge = Subject(tiny_models.model("gpt2", vocab_size=400), tiny_tokenizers.tokenizer("gpt2", WORDS), name="judge")
    search = replace(FAST_PIN, steps=4, k=50_272, perplexity_weight=2.0, start="cat")
    bench = Bench(llama(), reference=judge)
    with patch("soft2hard.eval.methods.policies._policy_model", return_value=policy):
        outcome = list(replace(search, policy="an OPT").run([case(1)], bench))[0]
    trials = Trials.of(llama(), case(1).task.validation, (), Meter(None))
    Rewards(llama(), judge, replace(FAST, perplexity_weight=0.0)).score([(trials, outcome.prompt)])
    charge = 2 * min(exp(log_perplexities(judge, [outcome.prompt])[0] or 0.0), 400)
    expected = trials.rewards[outcome.prompt] - charge
    assert outcome.trace["best"][-1]["score"] == pytest.approx(expected, rel=1e-4)


def test_a_policy_of_another_vocabulary_writes_what_the_subject_reads_as_few_tokens():
    policy = opt([" ".join(WORDS), "cat cat cat cat cat cat cat cat cat cat cat " * 9])
    writing, words = Writing(policy, llama().tokenizer), llama().tokenizer
    sizes = [len(words(writing.text([i]), add_special_tokens=False)["input_ids"]) for i in writing.tokens.tolist()]
    assert max(sizes) == writing.longest <= 8
    left_out = set(Vocabulary(policy).writable.tolist()) - set(writing.tokens.tolist())
    assert all(len(words(writing.text([i]), add_special_tokens=False)["input_ids"]) > 8 for i in left_out)
    own = Writing(tiny_models.subject("gpt2"), words)
    assert own.longest == 1 and own.tokens.tolist() == Vocabulary(llama()).writable.tolist()


def test_a_policy_that_cannot_write_the_subjects_characters_is_refused_before_anything_runs():
    byte_level, subject = opt(WORDS), llama()
    assert len(Writing(byte_level, subject.tokenizer).tokens)
    bench = Bench(byte_level, reference=subject)  # its words have no letter but those of cat, dog, ...
    with pytest.raises(UserError, match="policy LM 'tiny-llama' cannot write .* such as '0'") as caught:
        replace(FAST_PIN, policy="reference").check(bench)
    assert "\n" not in str(caught.value)


def test_batch_mates_change_nothing_and_seeds_reproduce():
    cases = [case(i) for i in range(3)]
    for method in (replace(FAST, steps=6), replace(FAST_PIN, steps=6)):
        together = run(method, cases)
        others = [run(replace(method, slots=2), cases), [run(method, [c])[0] for c in cases]]
        for one, *same in zip(together, *others, strict=True):
            assert {o.prompt for o in same} == {one.prompt}
            assert {(o.cost.model_calls, o.cost.tokens) for o in same} == {(one.cost.model_calls, one.cost.tokens)}
        assert [o.trace["curve"] for o in run(method, cases, seed=1)] != [o.trace["curve"] for o in together]


def test_calls_and_seconds_stop_the_training():
    cases = [case(i) for i in range(2)]
    limited = run(FAST, cases, max_model_calls=400)
    assert all(200 < o.cost.model_calls <= 400 and o.prompt for o in limited)
    late = run(FAST, cases, max_seconds=1e-6)
    assert all(o.trace["curve"][-1]["step"] == 1 and o.prompt for o in late)


def test_alpha_lowers_perplexity_at_some_cost():
    cases = [case(i) for i in range(3)]
    plain, fluent = (run(replace(FAST, perplexity_weight=w), cases) for w in (0.0, 20.0))
    before, after = (np.mean(log_perplexities(llama(), [o.prompt for o in x])) for x in (plain, fluent))
    assert after < before - 0.5
    lost = [
        score(rewards(), c.task, p.prompt) - score(rewards(), c.task, f.prompt)
        for c, p, f in zip(cases, plain, fluent, strict=True)
    ]
    assert np.mean(lost) > 0


def test_a_policy_that_cannot_serve_is_refused_before_anything_runs():
    bench = Bench(llama(), reference=tiny_models.subject("t5"))
    with pytest.raises(UserError, match="encoder-decoder"):
        replace(FAST, policy="reference").run([case(0)], bench)
    with pytest.raises(UserError, match="is to be the reference LM, but there is none"):
        replace(FAST, policy="reference").run([case(0)], Bench(llama()))
    other = replace(FAST, policy="reference", steps=2, start="cat dog")
    assert run(other, [case(0)], reference=tiny_models.subject("gpt2"))[0].prompt


def test_k_is_scaled_to_small_vocabularies_and_options_out_of_range_are_refused():
    assert Pin().n_allowed(50272) == Pin().n_allowed(128_000) == 10_000
    assert Pin().n_allowed(699) == 140  # 139.04 rounded up
    for wrong in ({"steps": 0}, {"lr": 0.0}, {"polyak": 2.0}, {"reward": "joy"}, {"top_k": 0}, {"start": ""}):
        with pytest.raises(UserError):
            RLPrompt(**wrong)
