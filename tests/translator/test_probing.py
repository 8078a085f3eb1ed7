"""Invented probe inputs: what the subject writes where an input stands, up to where the template continues."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.compute.metering import Count
from soft2hard.lm.settings import Loading
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator import probing
from soft2hard.translator.probing import MAX_INPUT_TOKENS, Closing, continued, invented_inputs, own_uniforms
from tests import tiny_models
from tests.markov import IDS, markov_subject, remembering

NOUNS, COLOURS = ["cat", "dog", "bird"], ["red", "green"]


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
    subject = remembering(markov_subject(follows))
    # A soft prompt that points to "cat" makes "cat" likelier.
    subject.model.lm_head.weight.data[IDS["cat"], IDS["bird"]] = 10.0
    subject.model.lm_head.weight.data[IDS["dog"], IDS["bird"]] = -10.0
    pointing = SoftPrompt(5 * torch.eye(32)[[IDS["bird"]] * 3])
    [inputs] = invented_inputs(subject, [[pointing]], 3)
    assert all(text.startswith("cat") for text in inputs)


def test_several_prompts_take_turns() -> None:
    follows = COLOURED_NOUNS | {":": ["cat", "dog"], "cat": ["Output"], "dog": ["Output"]}
    subject = remembering(markov_subject(follows))
    head = subject.model.lm_head.weight.data
    for word, wanted, other in (("bird", "cat", "dog"), ("fish", "dog", "cat")):
        head[IDS[wanted], IDS[word]], head[IDS[other], IDS[word]] = 10.0, -10.0
    pointing = [SoftPrompt(5 * torch.eye(32)[[IDS[word]] * 3]) for word in ("bird", "fish")]
    [alone], [both] = (invented_inputs(subject, [prompts], 6) for prompts in (pointing[:1], pointing))
    assert {text.split()[0] for text in alone} == {"cat"}
    assert {text.split()[0] for text in both} == {"cat", "dog"}


# --- the key-value cache, against all read again for every token ----------------------------------


@torch.no_grad()
def obvious(subject: Subject, prompt: Prompt, uniforms: Float[Tensor, " n_steps"], closing: str) -> str:
    """What is written in one row alone, the whole text read again for every token, up to what closes it."""
    embeddings = subject.begun_embeddings(prompt)
    written: list[int] = []
    text = ""
    for uniform in uniforms:
        cumulated = subject.head(subject.backbone(embeddings[None])[0, -1]).softmax(-1).double().cumsum(-1)
        written.append(int((cumulated <= uniform * cumulated[-1]).sum()))
        text = subject.tokenizer.decode(written, skip_special_tokens=True)
        if closing in text:
            break
        embeddings = torch.cat([embeddings, subject.embed_ids(torch.tensor(written[-1:]))])
    return text


def obvious_inputs(subject: Subject, prompts: list[Prompt], n_probes: int, seed: int, closing: str) -> list[str]:
    """What `invented_inputs` promises for one list of prompts, row by row."""
    found: dict[str, None] = {}
    for row, uniforms in enumerate(own_uniforms(3 * n_probes, MAX_INPUT_TOKENS, seed, *prompts)):
        if len(found) < n_probes:
            text = obvious(subject, prompts[row % n_probes % len(prompts)], uniforms, closing)
            if closing in text and (before := text.split(closing)[0].strip()):
                found[before] = None
    return list(found)


def tiny(architecture: str = "llama", loading: Loading = Loading()) -> Subject:
    """Random weights, and one word closes an input, so that most rows close, at unlike times."""
    shared = tiny_models.subject(architecture)
    return Subject(
        shared.model, shared.tokenizer, name="tiny", template=Template(output_prefix="\nthree"), loading=loading
    )


def lists(subject: Subject) -> list[list[Prompt]]:
    """Texts of unlike lengths, one of them twice in a list and in two lists, and soft prompts."""
    soft = [
        SoftPrompt(subject.embed_text(text).clone(), scale=subject.embedding_scale) for text in ("up down left", "fish")
    ]
    return [["cat"], ["dog bird up down big small"], ["red", "green blue one two four", "red"], ["cat", *soft]]


@contextmanager
def shapes_read(subject: Subject, most: int | None = None) -> Iterator[list[tuple[int, int, int]]]:
    """Of each call of the model its rows, the tokens that each reads, and those with the ones in its cache.

    Memory runs out where there are more than `most` rows.
    """
    found: list[tuple[int, int, int]] = []

    def note(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        rows, new = kwargs["inputs_embeds"].shape[:2]
        if most is not None and rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        found.append((rows, new, kwargs["attention_mask"].shape[1]))

    hook = subject.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "bloom", "gemma2", "mistral"])
def test_inputs_are_those_of_one_row_after_another_read_again_for_every_token(architecture: str) -> None:
    """Two architectures look back over a window of 8 tokens, which many rows outgrow."""
    subject = tiny(architecture)
    found = invented_inputs(subject, lists(subject), 10, seed=3)
    assert found == [obvious_inputs(subject, prompts, 10, 3, "three") for prompts in lists(subject)]
    assert sum(map(len, found)) > 20
    assert len({len(text.split()) for inputs in found for text in inputs}) > 4


def test_so_are_those_of_the_embedded_subject() -> None:
    subject = Subject.from_pretrained("embedded", dtype=torch.float32)
    guesses: list[list[Prompt]] = [["Count the animals."], ["Remove the colours.", "Say the name of the fruit."]]
    found = invented_inputs(subject, guesses, 12, seed=1)
    assert found == [obvious_inputs(subject, prompts, 12, 1, "Output:") for prompts in guesses]
    assert all(len(inputs) == 12 for inputs in found)


def test_rows_that_have_closed_leave_the_batch_when_half_have() -> None:
    subject, n = markov_subject(COLOURED_NOUNS), 48
    uniforms = own_uniforms(n, MAX_INPUT_TOKENS, 0, "cat")
    with shapes_read(subject) as shapes:
        written = continued(subject, ["cat"] * n, uniforms, Closing(subject))
    n_begun = len(subject.begun_embeddings("cat"))
    assert shapes[0] == (1, n_begun, n_begun)
    n_open = [sum(len(ids) > step for ids in written) for step in range(1, len(shapes))]
    assert all(still <= rows < 2 * still for (rows, *_), still in zip(shapes[1:], n_open, strict=True))
    assert {new for _, new, _ in shapes[1:]} == {1}
    assert len({rows for rows, *_ in shapes[1:]}) > 2


def test_batches_hold_as_many_tokens_as_the_subject_allows() -> None:
    whole, bounded = tiny(), tiny(loading=Loading(batch_tokens=200))
    with shapes_read(bounded) as shapes:
        found = invented_inputs(bounded, lists(bounded), 10, seed=3)
    assert found == invented_inputs(whole, lists(whole), 10, seed=3)
    assert 100 < max(rows * seen for rows, _, seen in shapes) <= 200


@pytest.mark.parametrize("most", [1, 3])
def test_where_memory_runs_out_smaller_batches_write_the_same(most: int) -> None:
    subject = tiny()
    expected = invented_inputs(subject, lists(subject), 10, seed=3)
    with shapes_read(subject, most) as shapes:
        assert invented_inputs(subject, lists(subject), 10, seed=3) == expected
    assert max(rows for rows, *_ in shapes) == most


def test_a_vocabulary_too_large_for_all_rows_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny()
    expected = invented_inputs(subject, lists(subject), 10, seed=3)
    monkeypatch.setattr(probing, "_LOGITS_AT_ONCE", 3 * tiny_models.VOCAB_SIZE)
    assert invented_inputs(subject, lists(subject), 10, seed=3) == expected


@pytest.mark.parametrize("most", [None, 4])
def test_a_prompt_counts_once_a_batch_and_each_token_that_is_read_once(most: int | None) -> None:
    """Rows that wait for others count nothing, nor does work that ran out of memory."""
    subject, prompts = tiny(), ["cat", "dog"] * 4
    uniforms = own_uniforms(len(prompts), MAX_INPUT_TOKENS, 0, "cat")
    with metering.listening() as heard, shapes_read(subject, most):
        written = continued(subject, prompts, uniforms, Closing(subject))
    assert len({len(ids) for ids in written}) > 2
    # With memory for four rows, those of either text are a batch of their own.
    n_read = 2 * len(subject.begun_embeddings("cat")) + sum(len(ids) - 1 for ids in written)
    assert heard.total == Count(len(prompts), n_read)
