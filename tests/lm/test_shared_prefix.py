"""Examples that share their prompt in one row give the numbers, and the gradients, of separate sequences."""

import pytest
import torch
from torch import Tensor

from soft2hard.lm.attention import ATTENTION
from soft2hard.lm.shared_prefix import (
    EncodedExample,
    RepeatedPrefixRunner,
    SharedPrefixRunner,
    encode_example,
    make_runner,
    shares_prefixes,
)
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models

SHARING = ("llama", "gpt2", "qwen3", "opt")
PAIRS = [
    [("red", "blue"), ("one two three", "four small"), ("up down up down", "big")],
    [("fish fish green", "cat dog up up")],
    [("left right left right left", "two"), ("cat", "dog dog dog")],
]
"""Inputs and outputs under each of three prompts: another number of them, and of other lengths, for each."""


def soft_prompts(subject: Subject, lengths: tuple[int, ...] = (5, 1, 3)) -> list[SoftPrompt]:
    generator = torch.Generator().manual_seed(3)
    return [SoftPrompt(torch.randn(n, subject.d_model, generator=generator)) for n in lengths]


def prefixes(subject: Subject) -> list[Tensor]:
    """What stands before the bodies: BOS where the tokenizer adds one, then prompts of mixed length."""
    return [subject.prompt_embeddings(prompt).detach() for prompt in soft_prompts(subject)]


def encoded(subject: Subject) -> list[list[EncodedExample]]:
    return [[encode_example(subject, *pair) for pair in pairs] for pairs in PAIRS]


@pytest.mark.parametrize("architecture", SHARING)
def test_one_row_a_prompt_gives_the_hidden_states_of_one_row_an_example(architecture):
    subject = tiny_models.subject(architecture)
    shared, repeated = (
        kind(subject).run(prefixes(subject), encoded(subject)) for kind in (SharedPrefixRunner, RepeatedPrefixRunner)
    )
    torch.testing.assert_close(shared.hidden, repeated.hidden, atol=1e-4, rtol=1e-4)
    assert shared.ids.tolist() == repeated.ids.tolist()
    assert shared.prompt.tolist() == repeated.prompt.tolist()
    assert shared.example.tolist() == repeated.example.tolist()


@pytest.mark.parametrize("architecture", SHARING)
def test_one_row_a_prompt_gives_the_gradients_of_one_row_an_example(architecture):
    subject = tiny_models.subject(architecture)
    found = []
    for kind in (SharedPrefixRunner, RepeatedPrefixRunner):
        prompts = [prefix.requires_grad_() for prefix in prefixes(subject)]
        targets = kind(subject).run(prompts, encoded(subject))
        loss = torch.nn.functional.cross_entropy(subject.head(targets.hidden), targets.ids, reduction="sum")
        found.append(torch.autograd.grad(loss, prompts))
    for shared, repeated in zip(*found, strict=True):
        assert repeated.abs().max() > 1e-3
        torch.testing.assert_close(shared, repeated, atol=2e-3, rtol=2e-3)


def test_plain_matrix_product_attention_changes_nothing_in_shared_rows():
    fused = tiny_models.subject("llama")
    plain = Subject(tiny_models.model("llama"), tiny_models.tokenizer("llama"), name="plain")
    plain.model.set_attn_implementation(ATTENTION)
    expected, found = (SharedPrefixRunner(s).run(prefixes(s), encoded(s)) for s in (fused, plain))
    torch.testing.assert_close(found.hidden, expected.hidden, atol=1e-4, rtol=1e-4)
    # The tiny Llama has fewer key than query heads, so their repetition is covered too.
    assert plain.model.config.num_key_value_heads < plain.model.config.num_attention_heads


@pytest.mark.parametrize("architecture", tiny_models.CONFIGS)
def test_the_runner_chosen_gives_the_distributions_of_queries_run_one_by_one(architecture):
    subject = tiny_models.subject(architecture)
    targets = make_runner(subject).run(prefixes(subject), encoded(subject))
    logs = subject.head(targets.hidden).log_softmax(-1)
    at = 0
    for number, (prompt, pairs) in enumerate(zip(soft_prompts(subject), PAIRS, strict=True)):
        for which, (input, output) in enumerate(pairs):
            (expected,) = subject.target_distributions([Query(prompt, input, output)])
            rows = slice(at, at + len(expected))
            torch.testing.assert_close(logs[rows], expected, atol=2e-4, rtol=2e-4)
            assert targets.ids[rows].tolist() == subject.encode_output(output)
            assert set(targets.prompt[rows].tolist()) == {number}
            assert set(targets.example[rows].tolist()) == {which}
            at += len(expected)
    assert at == len(logs)


@pytest.mark.parametrize("architecture", SHARING)
def test_prefixes_are_shared_where_the_architecture_allows_it(architecture):
    assert isinstance(make_runner(tiny_models.subject(architecture)), SharedPrefixRunner)


@pytest.mark.parametrize("architecture", ["bloom", "t5"])
def test_prefixes_are_repeated_where_sharing_would_change_the_numbers(architecture):
    assert not shares_prefixes(tiny_models.subject(architecture))
    assert isinstance(make_runner(tiny_models.subject(architecture)), RepeatedPrefixRunner)


def test_other_examples_and_prompts_of_a_batch_change_nothing():
    subject = tiny_models.subject("llama")
    together = SharedPrefixRunner(subject).run(prefixes(subject), encoded(subject))
    alone = SharedPrefixRunner(subject).run(prefixes(subject)[2:], [encoded(subject)[2][1:]])
    mine = (together.prompt == 2) & (together.example == 1)
    torch.testing.assert_close(together.hidden[mine], alone.hidden, atol=1e-5, rtol=1e-4)
