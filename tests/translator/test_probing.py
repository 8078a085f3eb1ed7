"""Invented probe inputs: what the subject writes where an input stands, up to where the template continues."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator.probing import MAX_INPUT_TOKENS, invented_inputs
from tests import tiny_models

IDS = {word: i + len(tiny_models.SPECIAL) for i, word in enumerate(tiny_models.WORDS)}
NOUNS, COLOURS = ["cat", "dog", "bird"], ["red", "green"]


def markov_subject(follows: dict[str, list[str]], template: Template = Template()) -> Subject:
    """A Llama that writes after each word one of those that follow it, at equal chances, whatever came before."""
    width = 32
    sizes = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}
    ids = {"vocab_size": tiny_models.VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **ids, max_position_embeddings=64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)  # layers add nothing
        model.model.embed_tokens.weight.copy_(torch.eye(tiny_models.VOCAB_SIZE, width))
        for word, next_words in follows.items():
            for next_word in next_words:
                model.lm_head.weight[IDS[next_word], IDS[word]] = 10.0  # times sqrt(32) after the norm
    return Subject(model, tiny_models.tokenizer("gpt2"), name="markov", template=template)


def soft_prompts(n: int) -> list[list[SoftPrompt]]:
    generator = torch.Generator().manual_seed(0)
    return [[SoftPrompt(torch.randn(2 + i, 32, generator=generator))] for i in range(n)]


COLOURED_NOUNS = {
    ":": COLOURS,
    **{colour: NOUNS for colour in COLOURS},
    **{noun: ["Output", *COLOURS] for noun in NOUNS},
    "Output": [":"],
}


def test_inputs_are_distinct_and_end_where_the_template_continues() -> None:
    subject = markov_subject(COLOURED_NOUNS)
    for inputs in invented_inputs(subject, soft_prompts(3), 12):
        assert len(inputs) == len(set(inputs)) == 12
        for text in inputs:
            words = text.split()
            assert len(words) % 2 == 0
            assert set(words[::2]) <= set(COLOURS)
            assert set(words[1::2]) <= set(NOUNS)


def test_another_template_ends_inputs_elsewhere() -> None:
    follows = COLOURED_NOUNS | {noun: ["right"] for noun in NOUNS} | {"right": ["Output"]}
    subject = markov_subject(follows, Template(output_prefix="\nright Output:"))
    [inputs] = invented_inputs(subject, soft_prompts(1), 30)
    assert sorted(inputs) == sorted(f"{colour} {noun}" for colour in COLOURS for noun in NOUNS)


def test_no_more_come_back_than_there_are() -> None:
    subject = markov_subject({":": ["cat", "dog"], "cat": ["Output"], "dog": ["Output"], "Output": [":"]})
    for inputs in invented_inputs(subject, soft_prompts(2), 8):
        assert sorted(inputs) == ["cat", "dog"]


def test_a_subject_that_never_closes_its_input_gives_none() -> None:
    subject = markov_subject({":": ["cat"], "cat": ["dog"], "dog": ["cat"]})
    assert invented_inputs(subject, soft_prompts(2), 4) == [[], []]


def test_an_input_longer_than_the_limit_is_dropped_and_not_cut() -> None:
    words = tiny_models.WORDS[3:]
    assert len(words) + 2 <= MAX_INPUT_TOKENS
    chain = {":": [words[0]], **{a: [b] for a, b in zip(words, words[1:], strict=False)}, words[-1]: ["Output"]}
    assert invented_inputs(markov_subject(chain | {"Output": [":"]}), soft_prompts(1), 1) == [[" ".join(words)]]
    longer = chain | {words[-1]: [words[0]], words[5]: [words[6]], "Output": [":"]}
    assert invented_inputs(markov_subject(longer), soft_prompts(1), 1) == [[]]


def test_the_same_seed_gives_the_same_inputs_and_another_seed_others() -> None:
    subject = markov_subject(COLOURED_NOUNS)
    prompts = soft_prompts(2)
    first = invented_inputs(subject, prompts, 8, seed=1)
    torch.rand(3)
    assert invented_inputs(subject, prompts, 8, seed=1) == first
    assert invented_inputs(subject, prompts, 8, seed=2) != first


def test_what_is_invented_for_a_list_depends_on_its_prompts_alone() -> None:
    """Some lists need further tries, and rows close at different times, so that others would shift shared draws."""
    subject = markov_subject(COLOURED_NOUNS)
    lists = [*soft_prompts(3), ["red cat"], ["red cat", "up"], ["red cat"]]
    for n in (3, 40):
        together = invented_inputs(subject, lists, n, seed=5)
        assert together == [invented_inputs(subject, [prompts], n, seed=5)[0] for prompts in lists]
        assert invented_inputs(subject, lists[::-1], n, seed=5) == together[::-1]
        assert together[3] == together[5]
        assert len({tuple(inputs) for inputs in together}) == 5


def test_an_input_that_holds_a_part_of_what_closes_it_is_not_cut_there_whoever_else_has_closed() -> None:
    """The colon alone ends nothing; "Output:" does."""
    follows = {":": ["cat", "dog"], "cat": [":"], "dog": ["Output"], "Output": [":"]}
    subject = markov_subject(follows)
    together = invented_inputs(subject, soft_prompts(4), 8, seed=1)
    assert together == [invented_inputs(subject, [prompts], 8, seed=1)[0] for prompts in soft_prompts(4)]
    assert any(text.startswith("cat :") for inputs in together for text in inputs)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoder_decoders_do_not_continue_their_input(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    assert invented_inputs(subject, [[SoftPrompt(torch.randn(2, 16))]], 4) == [[]]


def test_the_prompt_decides_what_is_invented() -> None:
    follows = COLOURED_NOUNS | {":": ["cat", "dog"], "cat": ["Output"], "dog": ["Output"]}
    subject = markov_subject(follows)
    subject.model.model.layers[0].self_attn.v_proj.weight.data.copy_(torch.eye(32))
    subject.model.model.layers[0].self_attn.o_proj.weight.data.copy_(3 * torch.eye(32))
    # Attention adds the mean of all that was read: a soft prompt that points to "cat" makes "cat" likelier.
    subject.model.lm_head.weight.data[IDS["cat"], IDS["bird"]] = 10.0
    subject.model.lm_head.weight.data[IDS["dog"], IDS["bird"]] = -10.0
    pointing = SoftPrompt(5 * torch.eye(32)[[IDS["bird"]] * 3])
    [inputs] = invented_inputs(subject, [[pointing]], 3)
    assert all(text.startswith("cat") for text in inputs)


def test_several_prompts_take_turns() -> None:
    subject = markov_subject(COLOURED_NOUNS | {":": ["cat", "dog"], "cat": ["Output"], "dog": ["Output"]})
    subject.model.model.layers[0].self_attn.v_proj.weight.data.copy_(torch.eye(32))
    subject.model.model.layers[0].self_attn.o_proj.weight.data.copy_(3 * torch.eye(32))
    head = subject.model.lm_head.weight.data
    for word, wanted, other in (("bird", "cat", "dog"), ("fish", "dog", "cat")):
        head[IDS[wanted], IDS[word]], head[IDS[other], IDS[word]] = 10.0, -10.0
    pointing = [SoftPrompt(5 * torch.eye(32)[[IDS[word]] * 3]) for word in ("bird", "fish")]
    [alone], [both] = (invented_inputs(subject, [prompts], 6) for prompts in (pointing[:1], pointing))
    assert {text.split()[0] for text in alone} == {"cat"}
    assert {text.split()[0] for text in both} == {"cat", "dog"}
