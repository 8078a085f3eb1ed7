"""Tuning many soft prompts at once does to each what tuning it alone, the plain way, would do."""

from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.data_gen.tuning import START_FILE, Tuning
from soft2hard.data_gen.tuning.slots import SlotState, embedding_scale, initial_prompt
from soft2hard.data_gen.tuning.tuner import Tuned, Tuner
from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models

WORDS = tiny_models.WORDS[3:]
TEXT = "text:cat dog bird"
SHORT = Tuning(n_tokens=3, init=TEXT, steps=10, batch_size=6, warmup=3, eval_every=2, patience=9, slots=8, lr=0.1)
"""A patience that never runs out, and so few steps that rounding stays small: random models amplify it step by step."""


def task(number: int, n_train: int = 6, labels: tuple[str, ...] | None = None) -> Task:
    """One to three random words in, one or two out; lengths differ from task to task."""
    rng = Random(f"task {number}")
    inputs = {" ".join(rng.choices(WORDS, k=1 + (number + i) % 3)) + f" {WORDS[i]}": None for i in range(n_train + 4)}
    outputs = [" ".join(rng.choices(WORDS, k=1 + number % 2)) for _ in range(2)]
    examples = tuple(Example(input, rng.choice(outputs)) for input in inputs)
    return Task(
        name=f"task {number}",
        family="made up",
        instruction="",
        paraphrases=(),
        train=examples[:n_train],
        validation=examples[n_train:],
        test=(),
        labels=labels,
    )


TASKS = [task(number) for number in range(5)]


def tuned(subject: Subject, tasks: list[Task], config: Tuning = SHORT, **options: object) -> dict[str, Tuned]:
    return {result.task.name: result for result in Tuner(subject, config, **options).tune(tasks)}


def assert_same_prompts(found: dict[str, Tuned], expected: dict[str, Tuned]) -> None:
    for name, result in expected.items():
        assert found[name].best_step == result.best_step
        torch.testing.assert_close(
            found[name].soft_prompt.embeddings, result.soft_prompt.embeddings, atol=2e-3, rtol=1e-3
        )
        assert found[name].validation_loss == pytest.approx(result.validation_loss, abs=1e-3)


# --- what a task becomes is its own affair ----------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_slot_mates_do_not_matter(architecture):
    subject = tiny_models.subject(architecture)
    together = tuned(subject, TASKS)
    alone = {name: result for t in TASKS[:3] for name, result in tuned(subject, [t]).items()}
    assert set(together) == {t.name for t in TASKS}
    assert_same_prompts(together, alone)


def test_neither_order_nor_number_of_slots_matters_and_every_task_is_tuned_once():
    subject = tiny_models.subject("llama")
    config = replace(SHORT, init="vocabulary", batch_size=4)
    expected = tuned(subject, TASKS, config)
    for slots in (1, 2):
        results = list(Tuner(subject, replace(config, slots=slots)).tune(TASKS[::-1]))
        assert sorted(r.task.name for r in results) == sorted(t.name for t in TASKS)
        assert_same_prompts({r.task.name: r for r in results}, expected)


def test_a_free_slot_is_refilled_while_the_others_go_on():
    subject = tiny_models.subject("llama")
    # Task 0 counts as done from the start, because its loss is already as low as that.
    config = replace(SHORT, slots=2, steps=10)
    losses = {name: r.initial_loss for name, r in tuned(subject, TASKS, config).items()}
    easiest, second = sorted(losses.values())[:2]
    filled: list[int] = []
    results = tuned(subject, TASKS, replace(config, good_enough=(easiest + second) / 2), on_step=filled.append)
    steps = sorted(r.steps for r in results.values())
    assert steps[0] == 0 and len(results) == len(TASKS)
    assert sum(filled) == sum(steps) and max(filled) == 2


def test_sharing_prompts_among_examples_does_not_matter(monkeypatch):
    subject = tiny_models.subject("gpt2")
    shared = tuned(subject, TASKS)
    assert subject.scorer.shares_prefixes
    monkeypatch.setattr(subject.scorer, "shares_prefixes", False)
    assert_same_prompts(shared, tuned(subject, TASKS))


# --- against a plain loop ---------------------------------------------------------------------


def mean_loss(subject: Subject, prompt: Tensor, examples: tuple[Example, ...]) -> Tensor:
    """Nats a token over all output tokens, one example at a time, by the model's own forward."""
    tokenizer, template = subject.tokenizer, subject.template
    losses = []
    for example in examples:
        body = tokenizer(template.body_text(example.input, "soft"), add_special_tokens=False)["input_ids"]
        output = tokenizer(template.output_text(example.output), add_special_tokens=False)["input_ids"]
        output = [*output, tokenizer.eos_token_id]
        begin = [1] if tokenizer("cat")["input_ids"][0] == 1 else []
        embed = subject.model.get_input_embeddings()
        table = [embed(torch.tensor(begin, dtype=torch.long)), prompt, embed(torch.tensor(body + output))]
        logits = subject.model(inputs_embeds=torch.cat(table)[None]).logits[0]
        predicting = logits[-len(output) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(predicting, torch.tensor(output), reduction="none"))
    return torch.cat(losses).mean()


def pull_by_definition(subject: Subject, prompt: Tensor, start: Tensor, weight: float) -> Tensor:
    """Mean squared distance from the start, in units of the mean squared length of the subject's embeddings."""
    table = subject.model.get_input_embeddings().weight
    return weight * (prompt - start).pow(2).sum(1).mean() / table.pow(2).sum(1).mean()


def tuned_plainly(subject: Subject, task: Task, config: Tuning) -> tuple[Tensor, list[float]]:
    """PyTorch's Adam and scheduler on one prompt, all examples each step; the best prompt is kept."""
    start = subject.embed_text(config.init.removeprefix("text:")).detach()
    prompt = start.clone().requires_grad_()
    scale = subject.model.get_input_embeddings().weight.pow(2).mean().sqrt().item()
    adam = torch.optim.Adam([prompt], lr=config.lr * scale, betas=(0.9, 0.98), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min((step + 1) / config.warmup, 1 - step / config.steps)
    )
    seen: list[tuple[float, Tensor]] = []
    for step in range(config.steps + 1):
        if step % config.eval_every == 0:
            with torch.no_grad():
                seen.append((mean_loss(subject, prompt, task.validation).item(), prompt.detach().clone()))
        adam.zero_grad()
        (mean_loss(subject, prompt, task.train) + pull_by_definition(subject, prompt, start, config.pull)).backward()
        adam.step()
        schedule.step()
    return min(seen, key=lambda pair: pair[0])[1], [loss for loss, _ in seen]


@pytest.mark.parametrize("pull", [0.0, 30.0])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # with and without BOS
def test_tuning_agrees_with_a_plain_loop_over_one_task(architecture, pull):
    subject, config = tiny_models.subject(architecture), replace(SHORT, pull=pull)
    results = tuned(subject, TASKS, config)
    for t in TASKS[:2]:
        prompt, losses = tuned_plainly(subject, t, config)
        result = results[t.name]
        assert result.initial_loss == pytest.approx(losses[0], abs=1e-4)
        assert result.validation_loss == pytest.approx(min(losses), abs=2e-3)
        assert result.best_step == SHORT.eval_every * losses.index(min(losses))
        torch.testing.assert_close(result.soft_prompt.embeddings, prompt, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("architecture", tiny_models.CONFIGS)
def test_tuning_lowers_the_loss_on_every_architecture(architecture):
    subject = tiny_models.subject(architecture)
    same = tuple(replace(t, validation=t.train) for t in TASKS[:3])
    for result in tuned(subject, list(same), replace(SHORT, steps=60, lr=0.2)).values():
        assert result.validation_loss < 0.95 * result.initial_loss


def test_the_subject_is_left_as_it_was():
    subject = Subject(tiny_models.model("llama"), tiny_models.tokenizer("llama"), name="fresh")
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    tuned(subject, TASKS[:2])
    assert all(parameter.grad is None for parameter in subject.model.parameters())
    after = subject.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


# --- a pull towards the start -----------------------------------------------------------------


def test_the_pull_is_the_gradient_of_its_definition_added_to_that_of_the_loss():
    subject = tiny_models.subject("llama")
    config = replace(SHORT, pull=3.0, steps=8, warmup=2)
    generator = torch.Generator().manual_seed(0)
    starts, *gradients = (torch.randn(2, 3, 16, generator=generator) for _ in range(6))
    states = {pull: SlotState(subject, replace(config, pull=pull)) for pull in (0.0, config.pull)}
    for state in states.values():
        for start in starts:
            state.add(start)
        for gradient in gradients:
            state.update(gradient)
    expected = starts.clone().requires_grad_()
    scale = subject.model.get_input_embeddings().weight.pow(2).mean().sqrt().item()
    adam = torch.optim.Adam([expected], lr=1.0, betas=(0.9, 0.98), eps=1e-8)
    for step, gradient in enumerate(gradients):
        adam.param_groups[0]["lr"] = config.lr * scale * min((step + 1) / 2, 1 - step / 8, 1)
        pulled = sum(pull_by_definition(subject, *pair, config.pull) for pair in zip(expected, starts, strict=True))
        expected.grad = gradient + torch.autograd.grad(pulled, expected)[0]
        adam.step()
    moved = (expected.detach() - starts).norm()
    assert (states[config.pull].prompts - expected.detach()).norm() < 1e-3 * moved
    assert (states[0.0].prompts - expected.detach()).norm() > 0.01 * moved


def test_the_harder_the_pull_the_nearer_vectors_stay_to_their_start():
    subject = tiny_models.subject("llama")
    start = subject.embed_text(TEXT.removeprefix("text:"))
    tasks = [replace(t, validation=t.train) for t in TASKS]
    distances = []
    for pull in (0.0, 1.0, 100.0):
        found = tuned(subject, tasks, replace(SHORT, steps=40, eval_every=40, lr=0.3, pull=pull))
        assert {result.best_step for result in found.values()} == {40}
        distances.append(sum((r.soft_prompt.embeddings - start).norm().item() for r in found.values()))
    assert distances[2] < 0.5 * distances[1] < 0.5 * distances[0]


def test_each_is_pulled_to_its_own_start_also_where_slots_are_refilled():
    subject = tiny_models.subject("llama")
    config = replace(SHORT, init="vocabulary", pull=1.0, slots=8)
    losses = sorted(r.initial_loss for r in tuned(subject, TASKS, config).values())
    config = replace(config, good_enough=(losses[0] + losses[1]) / 2)  # so that one task is done before the others
    together = tuned(subject, TASKS, config)
    assert len({result.steps for result in together.values()}) > 1
    assert_same_prompts(tuned(subject, TASKS, replace(config, slots=2)), together)
    assert_same_prompts({n: r for t in TASKS for n, r in tuned(subject, [t], config).items()}, together)


# --- early stopping ---------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_the_prompt_returned_has_the_loss_that_is_recorded(architecture):
    subject = tiny_models.subject(architecture)
    for result in tuned(subject, TASKS, replace(SHORT, lr=0.5, patience=2)).values():
        queries = [Query(result.soft_prompt, e.input, e.output) for e in result.task.validation]
        scores = subject.target_scores(queries)
        loss = -sum(s.log_likelihood for s in scores) / sum(s.n_tokens for s in scores)
        assert result.validation_loss == pytest.approx(loss, abs=1e-4)
        assert result.validation_loss <= result.initial_loss
        assert result.best_step <= result.steps


def test_tuning_stops_after_as_many_looks_without_gain_as_its_patience():
    subject = tiny_models.subject("llama")
    config = replace(SHORT, lr=50.0, steps=100, eval_every=2, patience=3)  # a rate at which nothing is learned
    results = tuned(subject, TASKS, config).values()
    stopped = [r for r in results if r.steps < config.steps]
    assert stopped and all(r.steps == r.best_step + 2 * 3 for r in stopped)


def test_tuning_stops_where_nothing_is_left_to_gain():
    subject = tiny_models.subject("llama")
    seen = [replace(TASKS[0], validation=TASKS[0].train)]
    full = tuned(subject, seen)["task 0"]
    middle = (full.initial_loss + full.validation_loss) / 2
    stopped = tuned(subject, seen, replace(SHORT, good_enough=middle))["task 0"]
    assert full.best_step >= stopped.steps == stopped.best_step > 0
    assert stopped.validation_loss <= middle


def test_a_last_look_is_taken_where_the_steps_are_no_multiple_of_the_interval():
    subject = tiny_models.subject("llama")
    result = tuned(subject, [replace(TASKS[0], validation=TASKS[0].train)], replace(SHORT, steps=7))["task 0"]
    assert (result.steps, result.best_step) == (7, 7)


def test_every_example_is_seen_once_before_any_is_seen_again():
    subject = tiny_models.subject("llama")
    (job,) = [Tuner(subject, SHORT)._job(task(0, n_train=7))]
    drawn = [id(e) for _ in range(7) for e in job.deck.deal(3)]
    rounds = [drawn[i : i + 7] for i in (0, 7, 14)]
    assert all(len(set(r)) == 7 for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1


def test_snapshots_are_prompts_on_the_way():
    subject = tiny_models.subject("llama")
    t = replace(TASKS[0], validation=TASKS[0].train)
    full = tuned(subject, [t], SHORT, snapshot_steps=(3, 6, 10))["task 0"]
    assert full.best_step == 10 and [step for step, _ in full.snapshots] == [3, 6]
    plain = subject.embed_text("cat dog bird")
    distance = [(prompt - plain).norm().item() for _, prompt in full.snapshots]
    assert 0 < distance[0] < distance[1]


# --- where a prompt starts --------------------------------------------------------------------


def start(subject: Subject, init: str, n_tokens: int = 4, labels: tuple[str, ...] | None = None) -> Tensor:
    return initial_prompt(subject, task(0, labels=labels), init, n_tokens, Random(0))


def test_texts_and_labels_are_repeated_or_cut_to_length():
    subject = tiny_models.subject("gpt2")
    words = {word: subject.embedding[4 + i] for i, word in enumerate(tiny_models.WORDS)}
    expected = torch.stack([words[w] for w in ("cat", "dog", "cat", "dog")])
    assert torch.equal(start(subject, "text:cat dog"), expected)
    assert torch.equal(start(subject, "labels", labels=("cat", "dog")), expected)
    assert torch.equal(start(subject, "text:cat dog bird", n_tokens=1), words["cat"][None])


def test_random_tokens_are_ordinary_words_and_depend_on_the_seed_and_the_task():
    subject = tiny_models.subject("llama")
    ordinary = {tuple(row) for row in subject.embedding[len(tiny_models.SPECIAL) :].tolist()}
    prompts = [initial_prompt(subject, task(0), "vocabulary", 9, Random(seed)) for seed in (0, 0, 1)]
    assert {tuple(row) for prompt in prompts for row in prompt.tolist()} <= ordinary
    assert torch.equal(prompts[0], prompts[1]) and not torch.equal(prompts[0], prompts[2])
    config = replace(SHORT, init="vocabulary", lr=1e-9)
    a, b = (r.soft_prompt.embeddings for r in tuned(subject, TASKS[:2], config).values())
    assert not torch.allclose(a, b)


def with_start(tmp_path, n_tokens: int) -> tuple[Subject, SoftPrompt]:
    """A subject in a folder that holds a learned start."""
    tiny_models.model("llama").save_pretrained(tmp_path)
    tiny_models.tokenizer("llama").save_pretrained(tmp_path)
    subject = Subject.from_pretrained(tmp_path, dtype=torch.float32, device="cpu")
    learned = SoftPrompt(torch.full((n_tokens, subject.d_model), 0.25), fingerprint=subject.fingerprint)
    learned.save(tmp_path / START_FILE)
    return subject, learned


def test_a_learned_start_is_used_where_its_length_fits(tmp_path):
    subject, learned = with_start(tmp_path, 4)
    for init in ("learned", "auto", str(tmp_path / START_FILE)):
        assert torch.equal(start(subject, init), learned.embeddings)
    assert torch.equal(start(subject, "auto", n_tokens=5), start(subject, "vocabulary", n_tokens=5))
    with pytest.raises(UserError, match="has 4 virtual tokens, but 5"):
        start(subject, "learned", n_tokens=5)


@pytest.mark.parametrize(
    ("init", "problem"),
    [
        ("learned", "comes without a learned start"),
        ("labels", "has no label words"),
        ("text:", "initial text is empty"),
        ("wherever", "Unknown initialisation 'wherever'"),
    ],
)
def test_a_start_that_cannot_be_made_is_refused(init, problem):
    with pytest.raises(UserError, match=problem):
        start(tiny_models.subject("llama"), init)


def test_a_start_of_another_subject_is_refused(tmp_path):
    other = SoftPrompt(torch.zeros(4, 16), fingerprint="of another model")
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="tuned on another model"):
        start(tiny_models.subject("llama"), str(tmp_path / "other.safetensors"))


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_task_without_examples_is_refused(part):
    with pytest.raises(UserError, match=f"'task 0' has no {part} examples"):
        tuned(tiny_models.subject("llama"), [replace(TASKS[0], **{part: ()})])


def test_an_example_longer_than_the_context_is_refused_and_one_that_fits_is_not():
    subject = tiny_models.subject("llama")  # reads 64 tokens: BOS, 3 of the prompt, 4 around the input, the output
    room = tiny_models.CONTEXT - 1 - 3 - 4 - 1
    for n_words in (room, room + 1):
        long = replace(TASKS[0], train=(Example(" ".join(["cat"] * n_words), "dog"),))
        if n_words == room:
            assert tuned(subject, [long], replace(SHORT, steps=1))
        else:
            with pytest.raises(UserError, match=f"needs {tiny_models.CONTEXT + 1} tokens"):
                tuned(subject, [long])


@pytest.mark.parametrize(
    "setting",
    [
        {"n_tokens": 0},
        {"steps": 0},
        {"batch_size": 0},
        {"slots": -1},
        {"eval_every": 0},
        {"patience": 0},
        {"lr": 0.0},
        {"pull": -0.1},
    ],
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(UserError, match="not a number (above|from) 0"):
        Tuning(**setting)


def test_a_tuning_that_never_has_a_loss_says_so():
    subject = Subject(tiny_models.model("llama"), tiny_models.tokenizer("llama"), name="broken")
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        tuned(subject, TASKS[:1], replace(SHORT, steps=2))


def test_the_record_says_where_a_prompt_came_from():
    subject = tiny_models.subject("llama")
    prompt = tuned(subject, TASKS[:1])["task 0"].soft_prompt
    assert (prompt.subject, prompt.fingerprint, prompt.n_tokens) == ("tiny-llama", subject.fingerprint, 3)
    assert prompt.provenance["task"] == "task 0" and prompt.provenance["init"] == TEXT


def test_the_learning_rate_is_in_units_of_the_embeddings():
    subject = tiny_models.subject("llama")
    assert embedding_scale(subject) == pytest.approx(subject.embedding.double().pow(2).mean().sqrt().item())
    t = replace(TASKS[0], validation=TASKS[0].train)
    config = replace(SHORT, steps=1, warmup=1, lr=0.01)
    moved = tuned(subject, [t], config)["task 0"].soft_prompt.embeddings - subject.embed_text("cat dog bird")
    # Adam's first step is the learning rate times the sign of the gradient.
    torch.testing.assert_close(
        moved.abs(), torch.full_like(moved, 0.01 * embedding_scale(subject)), rtol=1e-2, atol=1e-6
    )


def test_a_subject_whose_template_asks_for_bos_is_tuned_behind_it():
    model, tokenizer = tiny_models.model("gpt2"), tiny_models.tokenizer("gpt2")
    template = replace(Subject(model, tokenizer, name="plain").template, bos=True)
    subject = Subject(model, tokenizer, name="with BOS", template=template)
    for result in tuned(subject, TASKS[:2]).values():
        queries = [Query(result.soft_prompt, e.input, e.output) for e in result.task.validation]
        scores = subject.target_scores(queries)
        loss = -sum(s.log_likelihood for s in scores) / sum(s.n_tokens for s in scores)
        assert result.validation_loss == pytest.approx(loss, abs=1e-4)
