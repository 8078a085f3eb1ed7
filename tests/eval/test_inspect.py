"""InSPEcT: patched generation against transformers run plainly, and what the methods make of it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from soft2hard import SoftPrompt, Subject
from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.inspect_patching import (
    BUILT_IN,
    Inspect,
    InspectOracle,
    TargetText,
    demonstration,
    description,
    description_score,
    description_scores,
    encode_target,
    few_shot_target,
    released_description,
    stop_ids,
)
from soft2hard.eval.metrics.descriptions import content_rouge1
from soft2hard.eval.metrics.text import class_rate
from soft2hard.lm.patching import PatchedPrompt, Patcher
from tests import tiny_models
from tests.tiny_models import WORDS

BLOCKS = {
    "llama": lambda model: model.model.layers,
    "qwen3": lambda model: model.model.layers,
    "gpt2": lambda model: model.transformer.h,
    "opt": lambda model: model.model.decoder.layers,
    "bloom": lambda model: model.transformer.h,
}
"""Where each architecture keeps its decoder blocks, as its own code has it."""
BOS = {"llama": [1], "opt": [1]}
STOPS = [2, 5, 9, 14, 20]
N_NEW = 10


def token_ids(text: str) -> list[int]:
    return [4 + WORDS.index(word) for word in text.split()]


def patched(
    subject: Subject, soft_prompt: SoftPrompt, before: str = "red cat : blue dog :", after: str = "up"
) -> PatchedPrompt:
    return encode_target(subject, soft_prompt, TargetText(before, after), "one")


def noisy_prompts(subject: Subject, sizes: Sequence[int]) -> list[SoftPrompt]:
    generator = torch.Generator().manual_seed(0)
    scale = subject.embedding.std()
    return [SoftPrompt(scale * torch.randn(n, subject.d_model, generator=generator)) for n in sizes]


@torch.no_grad()
def hidden_states(subject: Subject, soft_prompt: SoftPrompt) -> torch.Tensor:
    """What transformers itself reports before each block, at the soft prompt."""
    embeddings = subject.prompt_embeddings(soft_prompt)[None]
    output = subject.model(inputs_embeds=embeddings, output_hidden_states=True)
    return torch.cat(output.hidden_states[:-1])[:, -soft_prompt.n_tokens :]


@torch.no_grad()
def greedy_without_cache(subject: Subject, embeddings: torch.Tensor, stops: Sequence[int], n_new: int) -> list[int]:
    """The whole sequence anew for every token; stops count from the first other token on."""
    written: list[int] = []
    for _ in range(n_new):
        rows = torch.cat([embeddings, subject.embed_ids(torch.tensor(written, dtype=torch.long))])
        written.append(subject.model(inputs_embeds=rows[None], use_cache=False).logits[0, -1].argmax().item())
        if written[-1] in stops and any(token not in stops for token in written):
            break
    return written


def one_pair(
    architecture: str, soft_prompt: SoftPrompt, before: str, after: str, source: int, layer: int, n_new: int = N_NEW
) -> list[int]:
    """One soft prompt under one pair of layers >= 1 (at layer 0 positions count, see below), from the definition."""
    subject = tiny_models.subject(architecture)
    states = hidden_states(subject, soft_prompt)[source]
    start = len(BOS.get(architecture, [])) + len(before.split())

    def patch(module: torch.nn.Module, args: tuple) -> tuple:
        hidden = args[0].clone()
        hidden[0, start : start + len(states)] = states
        return (hidden, *args[1:])

    ids = [*BOS.get(architecture, []), *token_ids(before), *token_ids("one") * len(states), *token_ids(after)]
    handle = BLOCKS[architecture](subject.model)[layer].register_forward_pre_hook(patch)
    try:
        return greedy_without_cache(subject, subject.embed_ids(torch.tensor(ids)), STOPS, n_new)
    finally:
        handle.remove()


@pytest.mark.parametrize("architecture", BLOCKS)
def test_source_states_are_transformers_own_hidden_states(architecture):
    subject = tiny_models.subject(architecture)
    prompts = noisy_prompts(subject, (3, 5, 1))
    found = Patcher(subject, STOPS, N_NEW).source_states(prompts)
    for states, prompt in zip(found, prompts, strict=True):
        torch.testing.assert_close(states, hidden_states(subject, prompt), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def states_from_the_first_blocks_output(architecture: str, soft_prompt: SoftPrompt) -> torch.Tensor:
    """As the released code has it: a pass over placeholders whose first block's output is overwritten."""
    subject = tiny_models.subject(architecture)
    ids = torch.tensor([[*BOS.get(architecture, []), *token_ids("one") * soft_prompt.n_tokens]])

    def overwrite(module: torch.nn.Module, args: tuple, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[0, -soft_prompt.n_tokens :] = soft_prompt.embeddings

    handle = BLOCKS[architecture](subject.model)[0].register_forward_hook(overwrite)
    try:
        output = subject.model(ids, output_hidden_states=True)
    finally:
        handle.remove()
    return torch.cat(output.hidden_states[1:-1])[:, -soft_prompt.n_tokens :]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "bloom"])
def test_a_soft_prompt_may_enter_in_the_place_of_the_first_blocks_output_as_in_the_released_code(architecture):
    subject = tiny_models.subject(architecture)
    prompts = noisy_prompts(subject, (3, 5, 1))
    patcher = Patcher(subject, STOPS, N_NEW, entry="first_block")
    found = patcher.source_states(prompts, patched(subject, prompts[0]).placeholder)
    for states, prompt in zip(found, prompts, strict=True):
        torch.testing.assert_close(states[1], prompt.embeddings.to(states), atol=0, rtol=0)
        expected = states_from_the_first_blocks_output(architecture, prompt)
        torch.testing.assert_close(states[1:], expected, atol=1e-5, rtol=1e-5)
    assert patcher.pairs() == [(1, 0), (1, 1)]  # layer 0 knows nothing of the soft prompt
    written = patcher.write([patched(subject, prompt) for prompt in prompts], [(1, 1)])
    other = Patcher(subject, STOPS, N_NEW).write([patched(subject, prompt) for prompt in prompts], [(1, 1)])
    assert written != other


@pytest.mark.parametrize("architecture", BLOCKS)
def test_batches_with_a_cache_write_what_one_pair_at_a_time_writes_without(architecture):
    """Token for token: soft prompts of several lengths, several target prompts, all pairs, small batches and large."""
    subject = tiny_models.subject(architecture)
    prompts = noisy_prompts(subject, (4, 2, 4, 3, 4, 2))
    texts = [("red cat : blue dog :", "up"), ("red cat : blue dog :", ""), ("big fish", "left right two")]
    jobs = [(prompt, *texts[i % 3]) for i, prompt in enumerate(prompts)]
    # GPT-2's and OPT's layer 0 holds positions, which `hidden_states` counts from the soft prompt's own start.
    sources = [1] if architecture in ("gpt2", "opt") else [0, 1]
    pairs = [(s, t) for s in sources for t in (0, 1)]
    expected = [[one_pair(architecture, *job, *pair) for pair in pairs] for job in jobs]
    prompts = [patched(subject, *job) for job in jobs]
    for batch_tokens in (40, 10_000):
        assert Patcher(subject, STOPS, N_NEW, batch_tokens).write(prompts, pairs) == expected
    assert len({len(row) for rows in expected for row in rows}) >= 2  # else the early endings are not tried
    assert any(rows[0] != rows[1] for rows in expected)  # and the layers make a difference


@pytest.mark.parametrize("architecture", BLOCKS)
@pytest.mark.parametrize("after", ["", "up left"])
def test_token_embeddings_patched_from_0_to_0_are_read_as_the_text_itself(architecture, after):
    subject = tiny_models.subject(architecture)
    texts = ["green bird three", "cat", "small fish down two"]
    prompts = [patched(subject, SoftPrompt(subject.embed_text(t).clone()), after=after) for t in texts]
    written = Patcher(subject, STOPS, N_NEW).write(prompts, [(0, 0)])
    for text, (row,) in zip(texts, written, strict=True):
        ids = [*BOS.get(architecture, []), *token_ids(f"red cat : blue dog : {text} {after}")]
        assert row == greedy_without_cache(subject, subject.embed_ids(torch.tensor(ids)), STOPS, N_NEW)


def test_at_target_layers_above_0_the_placeholders_below_are_still_read():
    """The keys of the first block are the placeholder's own, so another placeholder may change what is written."""
    subject = tiny_models.subject("llama")
    prompt = noisy_prompts(subject, (4,))[0]

    def written(word: str, pair: tuple[int, int]) -> list[int]:
        encoded = encode_target(subject, prompt, TargetText("red cat :", "up"), word)
        return Patcher(subject, [], N_NEW).write([encoded], [pair])[0][0]

    assert len({tuple(written(word, (0, 0))) for word in WORDS[3:9]}) == 1
    assert len({tuple(written(word, (0, 1))) for word in WORDS[3:9]}) > 1


def test_an_encoder_decoder_subject_is_refused():
    with pytest.raises(UserError, match="decoder-only"):
        Patcher(tiny_models.subject("t5"), STOPS, N_NEW)


def test_sequences_and_tokens_are_counted():
    """Per prompt one source run of BOS and 3 tokens; BOS and 5 words before the placeholders once for all rows."""
    subject = tiny_models.subject("llama")
    patcher = Patcher(subject, [], 4)
    patcher.write([patched(subject, p) for p in noisy_prompts(subject, (3, 3))], patcher.pairs())
    assert patcher.n_sequences == 2 + 1 + 2 * 4
    assert patcher.n_tokens == 2 * 4 + 7 + 8 * (3 + 1 + 4)


# --- texts ------------------------------------------------------------------------------------


def test_a_few_shot_target_is_written_as_in_the_published_code():
    assert few_shot_target(["a: b", "c: d"], "|") == TargetText("a: b | c: d |")
    assert few_shot_target(["A b.", "C d."], "") == TargetText("A b. C d.")
    assert [len(texts) for texts in BUILT_IN.values()] == [8, 8]


def test_tasks_become_demonstrations_with_their_classes_on_the_side_asked_for():
    task = Task("t", "f", "Is it red?", (), (), (), (), labels=("yes", "no"))
    assert demonstration(task, "classes_after") == "Is it red?: yes, no"
    assert demonstration(task, "classes_before") == "yes, no: Is it red?"
    assert demonstration(task, "repeated") == "Is it red? Is it red?"
    assert demonstration(Task("t", "f", "Say it.", (), (), (), ()), "classes_before") == "Say it."


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Is the word a fish? Answer yes or no. Count", "Is the word a fish? Answer yes or no."),
        (". . Count the birds. Say", "Count the birds."),
        ("Count the birds", "Count the birds"),
        (". .", ""),
    ],
)
def test_a_description_ends_at_its_first_stop(embedded, written, text):
    assert description(embedded, embedded.tokenizer(written, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Count the birds. Say", "Count the birds"),
        (". Count the birds in it. Say", "Count the birds in it"),
        ("Count the birds", "Count the birds"),
        (". Count", ". Count"),  # the only stop is within the first fifth, so nothing is cut
    ],
)
def test_the_released_cut_is_the_first_stretch_that_ends_after_a_fifth_of_the_text(embedded, written, text):
    ids = embedded.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert released_description(embedded, ids) == text


def test_stop_tokens_are_eos_and_those_with_a_stop_in_them(embedded):
    assert embedded.tokenizer.convert_ids_to_tokens(stop_ids(embedded)) == sorted(
        ["</s>", "."], key=embedded.tokenizer.convert_tokens_to_ids
    )


def test_a_placeholder_that_the_subject_does_not_know_is_refused(embedded):
    with pytest.raises(UserError, match="'x' is not one token.*placeholder"):
        encode_target(embedded, noisy_prompts(embedded, (1,))[0], TargetText("Count the birds."), "x")


# --- the methods ------------------------------------------------------------------------------

TINY = {"demonstrations": ("red cat", "blue dog"), "placeholder": "one", "separator": ":", "max_new_tokens": 6}


@pytest.fixture(scope="module")
def embedded() -> Subject:
    return Subject.from_pretrained(embedded_path("subject"))


def tiny_cases(subject: Subject, n: int, seed: int) -> list[Case]:
    """Tasks told by random words, with soft prompts of these words."""
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for i in range(n):
        text = " ".join(WORDS[3 + int(k)] for k in torch.randint(len(WORDS) - 3, (6,), generator=generator))
        task = Task(f"{seed}/{i}", "f", text, (), (Example("cat", "dog"),), (), (), labels=("red", "up", "two"))
        cases.append(Case(task, SoftPrompt(subject.embed_text(text).clone())))
    return cases


def under_each_pair(cases: list[Case], bench: Bench, **options: object) -> dict[tuple[int, int], list[Outcome]]:
    """A run of the method for each pair of layers alone."""
    return {
        (s, t): list(Inspect(sources=(s,), targets=(t,), **options).run(cases, bench)) for s in (0, 1) for t in (0, 1)
    }


def test_the_pair_with_the_best_mean_score_on_validation_cases_is_used_for_all():
    subject = tiny_models.subject("gpt2")
    validation, cases = tiny_cases(subject, 6, 1), tiny_cases(subject, 4, 2)
    alone = under_each_pair(validation, Bench(subject), **TINY)
    means = {
        pair: sum(description_score(o.prompt or "", c.task) for o, c in zip(outcomes, validation, strict=True)) / 6
        for pair, outcomes in alone.items()
    }
    best = max(means, key=means.__getitem__)
    assert len(set(means.values())) > 1
    outcomes = list(Inspect(**TINY).run(cases, Bench(subject, validation=validation)))
    assert {(o.trace["source_layer"], o.trace["target_layer"]) for o in outcomes} == {best}
    assert {(s, t): score for s, t, score in outcomes[0].trace["validation_scores"]} == pytest.approx(means, abs=1e-4)
    fixed = Inspect(sources=best[:1], targets=best[1:], **TINY).run(cases, Bench(subject))
    assert [o.prompt for o in outcomes] == [o.prompt for o in fixed]
    assert not any(o.trace["oracle"] for o in outcomes)


def test_the_oracle_takes_each_cases_own_best_pair_and_says_so():
    subject = tiny_models.subject("llama")
    cases = tiny_cases(subject, 5, 3)
    alone = under_each_pair(cases, Bench(subject), **TINY)
    for i, outcome in enumerate(InspectOracle(**TINY).run(cases, Bench(subject))):
        scores = {pair: description_score(o[i].prompt or "", cases[i].task) for pair, o in alone.items()}
        assert outcome.trace["best"][0]["score"] == pytest.approx(max(scores.values()), abs=1e-4)
        chosen = (outcome.trace["source_layer"], outcome.trace["target_layer"])
        assert scores[chosen] == max(scores.values()) and outcome.prompt == alone[chosen][i].prompt
        assert outcome.trace["oracle"] is True
    assert "ORACLE" in InspectOracle.source


def of_letters(texts: Sequence[str]) -> np.ndarray:
    """A stand-in for a sentence encoder: how often each letter is there."""
    return np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=float)


def letters_cosine(text: str, task: Task) -> float:
    a, b = of_letters([text, task.instruction])
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if text else 0.0


MEASURES = {
    "rouge1": lambda text, task: content_rouge1(text, [task.instruction, *task.paraphrases]),
    "class_rate": lambda text, task: class_rate(text, task.labels),
    "cosine": letters_cosine,
}


@pytest.mark.parametrize("select", MEASURES)
def test_the_pair_of_layers_may_be_chosen_by_rouge1_class_rate_or_cosine(select):
    subject = tiny_models.subject("gpt2")
    bench, validation, cases = Bench(subject, encoder=of_letters), tiny_cases(subject, 6, 1), tiny_cases(subject, 4, 2)
    alone = under_each_pair(validation, bench, **TINY)
    measure = MEASURES[select]
    means = {
        pair: sum(measure(o.prompt or "", c.task) for o, c in zip(outcomes, validation, strict=True)) / 6
        for pair, outcomes in alone.items()
    }
    bench = replace(bench, validation=validation)
    outcomes = list(Inspect(select=select, **TINY).run(cases, bench))
    assert {(s, t): score for s, t, score in outcomes[0].trace["validation_scores"]} == pytest.approx(means, abs=1e-4)
    alone = under_each_pair(cases, bench, **TINY)
    for i, outcome in enumerate(InspectOracle(select=select, **TINY).run(cases, bench)):
        scores = [measure(o[i].prompt or "", cases[i].task) for o in alone.values()]
        assert measure(outcome.prompt or "", cases[i].task) == pytest.approx(max(scores))


def test_the_oracles_columns_are_each_measures_own_best_over_all_pairs():
    subject = tiny_models.subject("llama")
    cases = tiny_cases(subject, 4, 3)
    alone = under_each_pair(cases, Bench(subject), **TINY)
    for i, outcome in enumerate(InspectOracle(**TINY).run(cases, Bench(subject))):
        texts = [o[i].prompt or "" for o in alone.values()]
        for column in ("rouge1", "class_rate"):
            best = max(MEASURES[column](text, cases[i].task) for text in texts)
            assert outcome.trace[f"max_{column}"] == pytest.approx(best)
            assert MEASURES[column](outcome.trace[f"best_{column}_output"], cases[i].task) == pytest.approx(best)


def test_a_choice_by_cosine_needs_an_encoder():
    assert "encoder" in Inspect(select="cosine").needs and "encoder" not in Inspect().needs
    with pytest.raises(UserError, match="no encoder"):
        description_scores(["red"], tiny_cases(tiny_models.subject("llama"), 1, 0)[0].task, "cosine")


def test_a_chain_of_thought_prompt_asks_about_a_training_input_after_the_placeholders():
    subject = tiny_models.subject("llama")
    cases = tiny_cases(subject, 3, 4)
    method = Inspect(target="chain_of_thought", reasoning=" up {input} down", **TINY)
    outcomes = list(method.run(cases, Bench(subject, validation=tiny_cases(subject, 3, 5))))
    assert {o.trace["target_prompt"] for o in outcomes} == {"[soft prompt] up cat down"}
    assert method.needs == {"soft_prompt", "validation_cases", "train"}


def test_demonstrations_of_validation_tasks_are_not_scored_themselves():
    subject = tiny_models.subject("llama")
    options = TINY | {"demonstrations": "validation", "n_demonstrations": 3}
    three = tiny_cases(subject, 3, 6)
    with pytest.raises(UserError, match="no validation case"):
        list(Inspect(**options).run(tiny_cases(subject, 1, 7), Bench(subject, validation=three)))
    (outcome,) = Inspect(sources=(0,), targets=(0,), **options).run(three[:1], Bench(subject, validation=three))
    assert all(case.task.instruction in outcome.trace["target_prompt"] for case in three)


def test_cases_that_cannot_be_described_fail_alone_and_costs_are_shared():
    subject = tiny_models.subject("llama")
    good = tiny_cases(subject, 2, 8)
    long = Case(good[0].task, SoftPrompt(subject.embed_text("cat " * 60)))
    cases = [good[0], Case(good[0].task), long, good[1]]
    method = Inspect(sources=(1,), targets=(1,), **TINY)
    outcomes = list(method.run(cases, Bench(subject)))
    assert "no soft prompt" in outcomes[1].failure and "has room for 64" in outcomes[2].failure
    expected = [o.prompt for o in method.run(good, Bench(subject))]
    assert [outcomes[0].prompt, outcomes[3].prompt] == expected
    assert sum(o.cost.model_calls for o in outcomes) == 2 + 1 + 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target": "zero_shot"}, "zero_shot"),
        ({"demonstrations": "some"}, "'some'"),
        ({"target": "repeated"}, "no built-in"),
        ({"target": "chain_of_thought", "reasoning": "Label:"}, "{input}"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"sources": ()}, r"sources is \[\]"),
        ({"entry": "first_block", "sources": (0, 1)}, "source layer 0"),
        ({"select": "bleu"}, "'bleu'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        Inspect(**options)


def test_a_layer_that_the_subject_does_not_have_is_refused():
    subject = tiny_models.subject("llama")
    with pytest.raises(UserError, match="no layer 2.*layers 0 to 1"):
        list(Inspect(sources=(2,), **TINY).run(tiny_cases(subject, 1, 0), Bench(subject)))


@pytest.mark.parametrize("method", [Inspect, InspectOracle])
@pytest.mark.parametrize(
    ("architecture", "options"),
    [("t5", {}), ("llama", {"sources": (2,)}), ("llama", {"targets": (-1, 0)}), ("llama", {"placeholder": "zebra"})],
)
def test_what_a_run_would_refuse_is_refused_by_the_check_in_the_same_words(method, architecture, options):
    subject = tiny_models.subject(architecture)
    asked = method(**TINY | options)
    with pytest.raises(UserError) as beforehand:
        asked.check(Bench(subject))
    cases = tiny_cases(tiny_models.subject("llama"), 1, 0)  # of the same width
    cases = [Case(case.task, SoftPrompt(case.soft_prompt.embeddings)) for case in cases]
    with pytest.raises(UserError) as running:
        list(method(**TINY | {"targets": (0, 1), "sources": (0,)} | options).run(cases, _with_validation(subject)))
    assert str(running.value) == str(beforehand.value)


def _with_validation(subject: Subject) -> Bench:
    return Bench(subject, validation=tiny_cases(tiny_models.subject("llama"), 2, 1))


@pytest.mark.parametrize("method", [Inspect, InspectOracle])
def test_the_check_asks_for_no_validation_tasks_and_lets_a_fitting_subject_pass(method):
    method(**TINY, sources=(0, 1), targets=(1,)).check(Bench(tiny_models.subject("gpt2")))


def test_words_of_the_task_come_out_of_the_embedded_subject_above_every_shuffling(embedded):
    """Each description is set against its own task and, as a control, against the others in all cyclic shifts.

    If descriptions had nothing to do with their tasks, the true pairing would win with probability 1 in 24.
    """
    validation, tested = (
        [Case(task, SoftPrompt(embedded.embed_text(task.instruction))) for task in LexicalDoD().tasks(split, n)]
        for split, n in (("validation", 18), ("test", 24))
    )
    method = Inspect(
        target="repeated",
        demonstrations="validation",
        separator="",
        placeholder="word",
        max_new_tokens=12,
        targets=(0, 1),
    )
    outcomes = list(method.run(tested, Bench(embedded, validation=validation)))
    tasks = [case.task for case in tested]
    means = [
        sum(description_score(o.prompt or "", tasks[(i + shift) % 24]) for i, o in enumerate(outcomes)) / 24
        for shift in range(24)
    ]
    assert means[0] > max(means[1:])
    assert means[0] > 1.3 * sum(means[1:]) / 23
