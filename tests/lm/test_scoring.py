"""Examples that share their prompt in one row give the numbers, and the gradients, of separate sequences."""

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GptOssConfig

from soft2hard.lm import scoring
from soft2hard.lm.attention import ATTENTION
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.scoring import RepeatedRows, Scorer, SharedRows
from soft2hard.lm.subject import Subject
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
    """All that stands before the bodies: BOS where the tokenizer adds one, then prompts of mixed length."""
    return [subject.prompt_embeddings(prompt).detach() for prompt in soft_prompts(subject)]


def encoded(subject: Subject) -> list[list[EncodedExample]]:
    return [[subject.encode_example(*pair, "soft") for pair in pairs] for pairs in PAIRS]


def by_the_model(subject: Subject, prefix: Tensor, example: EncodedExample) -> Tensor:
    """Log-probabilities at the output's positions by the model's own forward, one sequence at a time."""
    model, lookup = subject.model, subject.model.get_input_embeddings()
    with torch.no_grad():
        body = torch.cat([prefix, lookup(torch.tensor(example.body))])[None]
        if subject.is_encoder_decoder:
            start = torch.tensor([[model.config.decoder_start_token_id, *example.output[:-1]]])
            logits = model(inputs_embeds=body, decoder_input_ids=start).logits[0]
        else:
            body = torch.cat([body, lookup(torch.tensor([example.output[:-1]], dtype=torch.long))], 1)
            logits = model(inputs_embeds=body).logits[0, -len(example.output) :]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("architecture", SHARING)
def test_one_row_a_prompt_gives_the_hidden_states_of_one_row_an_example(architecture):
    subject = tiny_models.subject(architecture)
    model = FrozenModel(subject.model)
    shared, repeated = (kind(model).run(prefixes(subject), encoded(subject)) for kind in (SharedRows, RepeatedRows))
    torch.testing.assert_close(shared.hidden, repeated.hidden, atol=1e-4, rtol=1e-4)
    assert shared.ids.tolist() == repeated.ids.tolist()
    assert shared.prompt.tolist() == repeated.prompt.tolist()
    assert shared.example.tolist() == repeated.example.tolist()


@pytest.mark.parametrize("architecture", SHARING)
def test_one_row_a_prompt_gives_the_gradients_of_one_row_an_example(architecture):
    subject = tiny_models.subject(architecture)
    found = []
    for kind in (SharedRows, RepeatedRows):
        prompts = [prefix.requires_grad_() for prefix in prefixes(subject)]
        targets = kind(FrozenModel(subject.model)).run(prompts, encoded(subject))
        loss = torch.nn.functional.cross_entropy(subject.head(targets.hidden), targets.ids, reduction="sum")
        found.append(torch.autograd.grad(loss, prompts))
    for shared, repeated in zip(*found, strict=True):
        assert repeated.abs().max() > 1e-3
        torch.testing.assert_close(shared, repeated, atol=2e-3, rtol=2e-3)


def test_plain_matrix_product_attention_changes_nothing_in_shared_rows():
    fused = tiny_models.subject("llama")
    plain = Subject(tiny_models.model("llama"), tiny_models.tokenizer("llama"), name="plain")
    plain.model.set_attn_implementation(ATTENTION)
    expected, found = (SharedRows(FrozenModel(s.model)).run(prefixes(s), encoded(s)) for s in (fused, plain))
    torch.testing.assert_close(found.hidden, expected.hidden, atol=1e-4, rtol=1e-4)
    # The tiny Llama has fewer key than query heads, so their repetition is covered too.
    assert plain.model.config.num_key_value_heads < plain.model.config.num_attention_heads


def test_plain_matrix_product_attention_has_the_sinks_of_a_model_that_has_some():
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = GptOssConfig(**sizes, **experts, num_attention_heads=4, num_key_value_heads=2, sliding_window=4)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for layer in model.model.layers:
        layer.self_attn.sinks.data.normal_(std=3.0)
    ids = torch.randint(32, (2, 9))
    with torch.no_grad():
        expected = model(ids).logits
        model.set_attn_implementation(ATTENTION)
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", tiny_models.CONFIGS)
def test_one_pass_gives_the_distributions_of_the_model_itself(architecture):
    subject = tiny_models.subject(architecture)
    targets = subject.scorer.run(prefixes(subject), encoded(subject))
    logs = subject.scorer.log_probs(targets.hidden)
    at = 0
    for number, (prefix, examples) in enumerate(zip(prefixes(subject), encoded(subject), strict=True)):
        for which, example in enumerate(examples):
            expected = by_the_model(subject, prefix, example)
            rows = slice(at, at + len(expected))
            torch.testing.assert_close(logs[rows], expected, atol=2e-4, rtol=2e-4)
            assert targets.ids[rows].tolist() == example.output
            assert set(targets.prompt[rows].tolist()) == {number}
            assert set(targets.example[rows].tolist()) == {which}
            at += len(expected)
    assert at == len(logs)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize(("batch_tokens", "row_tokens"), [(16384, 512), (30, 512), (16384, 8)])
def test_batches_and_rows_change_no_hidden_state(architecture, batch_tokens, row_tokens, monkeypatch):
    subject = tiny_models.subject(architecture)
    expected = subject.scorer.run(prefixes(subject), encoded(subject))
    monkeypatch.setattr(scoring, "ROW_TOKENS", row_tokens)
    found = dict(subject.scorer.hidden_states(prefixes(subject), encoded(subject), batch_tokens))
    assert sorted(found) == [0, 1, 2]
    for number, hidden in found.items():
        torch.testing.assert_close(hidden, expected.hidden[expected.prompt == number], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", SHARING)
def test_prefixes_are_shared_where_the_architecture_allows_it(architecture):
    assert tiny_models.subject(architecture).scorer.shares_prefixes


@pytest.mark.parametrize("architecture", ["bloom", "t5"])
def test_prefixes_are_repeated_where_sharing_would_change_the_numbers(architecture):
    assert not tiny_models.subject(architecture).scorer.shares_prefixes


def test_other_examples_and_prompts_of_a_batch_change_nothing():
    subject = tiny_models.subject("llama")
    rows = SharedRows(FrozenModel(subject.model))
    together = rows.run(prefixes(subject), encoded(subject))
    alone = rows.run(prefixes(subject)[2:], [encoded(subject)[2][1:]])
    mine = (together.prompt == 2) & (together.example == 1)
    torch.testing.assert_close(together.hidden[mine], alone.hidden, atol=1e-5, rtol=1e-4)


def test_finding_out_whether_prefixes_can_be_shared_counts_as_nobodys_cost():
    from soft2hard.compute.metering import Count, listening

    subject = tiny_models.subject("llama")
    with listening() as heard:
        assert Scorer(FrozenModel(subject.model), subject.endings).shares_prefixes
    assert heard.total == Count()
