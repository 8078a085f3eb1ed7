"""Nearest token: soft prompts made of tokens are read back; distances are what their names say."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from transformers import AddedToken, PreTrainedTokenizerFast

from soft2hard import SoftPrompt, Subject
from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.discrete import Vocabulary
from soft2hard.eval.methods.nearest_token import NearestToken, allowed_ids, as_text
from soft2hard.lm.endings import special_ids
from tests import tiny_models
from tests.tiny_models import SPECIAL, WORDS

TASK = Task("t", "f", "red cat", (), (), (), ())
ARCHITECTURES = ["llama", "gpt2", "opt", "t5"]


def case(embeddings: torch.Tensor) -> Case:
    return Case(TASK, SoftPrompt(embeddings.clone()))


def read(subject: Subject, *embeddings: torch.Tensor, **options: object) -> list[Outcome]:
    return list(NearestToken(**options).run([case(e) for e in embeddings], Bench(subject)))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_soft_prompt_of_token_embeddings_is_read_back_through_a_little_noise(architecture, distance):
    subject = tiny_models.subject(architecture)
    texts = ["cat dog bird up down", "red", "Input : one two left"]
    embedded = [subject.embed_text(text) for text in texts]
    noisy = [e + 0.02 * noise(*e.shape) for e in embedded]
    outcomes = read(subject, *noisy, distance=distance)
    assert [outcome.prompt for outcome in outcomes] == texts
    assert all(outcome.trace["round_trips"] for outcome in outcomes)


def test_instructions_of_the_embedded_world_are_read_back_to_the_letter():
    subject = Subject.from_pretrained(embedded_path("subject"))
    texts = [task.instruction for task in LexicalDoD().tasks("test", 60)]
    outcomes = read(subject, *[subject.embed_text(text) for text in texts])
    assert [outcome.prompt for outcome in outcomes] == texts


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_table_holds_the_nearest_tokens_in_order_as_the_definition_says(distance):
    subject = tiny_models.subject("llama")
    vectors, table = noise(4, subject.d_model), subject.embedding
    all_distances = {
        "cosine": 1 - torch.nn.functional.cosine_similarity(vectors[:, None], table[None], dim=-1),
        "euclidean": torch.cdist(vectors, table),
    }[distance]
    (outcome,) = read(subject, vectors, distance=distance, top_k=6, vocabulary="all")
    words = [*SPECIAL, *WORDS]
    for row, found in zip(all_distances, outcome.trace["nearest"], strict=True):
        expected = sorted(range(len(words)), key=lambda i: row[i].item())[:6]
        assert [word for word, _ in found] == [words[i] for i in expected]
        assert [d for _, d in found] == pytest.approx([row[i].item() for i in expected], abs=1e-3)


def test_cosine_ignores_length_and_euclidean_distance_does_not():
    """A vector along a long token's embedding but at the very place of a short one's."""
    subject = tiny_models.subject("llama")
    table = subject.embedding
    cat, dog = 7, 8
    vector = table[cat] * 0.1 + table[dog] * 0.05
    expected = torch.cdist(vector[None], table[4:])[0].argmin().item() + 4
    (near,) = read(subject, vector[None], distance="euclidean")
    (along,) = read(subject, table[cat][None] * 0.01, distance="cosine")
    (short,) = read(subject, table[cat][None] * 0.01, distance="euclidean")
    assert near.prompt == [*SPECIAL, *WORDS][expected]
    assert along.prompt == "cat"
    assert short.prompt == [*SPECIAL, *WORDS][table[4:].norm(dim=1).argmin().item() + 4]
    assert short.prompt != along.prompt


def test_soft_prompts_of_other_lengths_in_the_batch_change_nothing():
    subject = tiny_models.subject("gpt2")
    prompts = [noise(n, subject.d_model, seed=n) for n in (5, 1, 9, 3)]
    together = read(subject, *prompts)
    alone = [read(subject, prompt)[0] for prompt in prompts]
    assert [(o.prompt, o.trace) for o in together] == [(o.prompt, o.trace) for o in alone]


def test_special_tokens_count_only_where_they_are_asked_for():
    subject = tiny_models.subject("llama")
    embeddings = subject.embed_ids(torch.tensor([2, 7]))
    (text,) = read(subject, embeddings)
    (everything,) = read(subject, embeddings, vocabulary="all")
    assert everything.trace["nearest"][0][0][0] == "</s>"
    assert "</s>" not in {word for position in text.trace["nearest"] for word, _ in position}
    assert text.prompt.split()[1] == "cat"


def test_unused_rows_of_the_table_and_unreadable_tokens_are_no_text():
    vocabulary = {"</s>": 0, "a": 1, "\n": 2, "\ufffd": 3, "\x07": 4, "b": 5}
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocabulary, [])), eos_token="</s>")
    assert allowed_ids(words, 9, "text") == [1, 5]
    assert allowed_ids(words, 9, "not_special") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert allowed_ids(words, 9, "all") == list(range(9))


@pytest.mark.parametrize(("splits_at_spaces", "text", "exact"), [(True, "a b", True), (False, "ab", False)])
def test_tokens_that_would_merge_are_kept_apart_where_the_tokenizer_allows_it(splits_at_spaces, text, exact):
    """'a' and 'b' in a row are read as 'ab'; a space between them helps only a tokenizer that drops spaces."""
    pairs = Tokenizer(BPE({"</s>": 0, "a": 1, "b": 2, "ab": 3}, [("a", "b")]))
    if splits_at_spaces:
        pairs.pre_tokenizer = Whitespace()
    found, round_trips = as_text(PreTrainedTokenizerFast(tokenizer_object=pairs, eos_token="</s>"), [1, 2])
    assert round_trips == exact
    if exact:
        assert found == text


def test_a_case_that_cannot_be_read_fails_alone():
    subject = tiny_models.subject("llama")
    cases = [Case(TASK), case(noise(2, 3)), case(subject.embed_text("red cat"))]
    outcomes = list(NearestToken().run(cases, Bench(subject)))
    assert [outcome.prompt for outcome in outcomes] == [None, None, "red cat"]
    assert "no soft prompt" in outcomes[0].failure and "3 wide" in outcomes[1].failure
    assert outcomes[2].failure is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"distance": "manhattan"}, "manhattan"), ({"top_k": 0}, "top_k is 0"), ({"vocabulary": "some"}, "some")],
)
def test_unknown_options_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        NearestToken(**options)


def test_more_neighbours_than_tokens_are_refused():
    subject = tiny_models.subject("llama")
    with pytest.raises(UserError, match="only 20 tokens"):
        read(subject, noise(1, subject.d_model), top_k=21)


def test_tokens_that_were_added_as_special_are_no_text_of_a_prompt():
    """SmolLM2 has fourteen and Llama 3 hundreds of them: a prompt of such tokens would be the empty text."""
    words = tiny_models.tokenizer("llama")
    words.add_tokens([AddedToken("<file_sep>", special=True)], special_tokens=True)
    lm = Subject(tiny_models.model("llama", vocab_size=len(words)), words, name="tiny")
    [added] = words("<file_sep>", add_special_tokens=False)["input_ids"]
    assert words.decode([added], skip_special_tokens=True) == ""
    assert added not in Vocabulary(lm).writable.tolist()
    assert all(added not in allowed_ids(words, len(words), which) for which in ("not_special", "readable"))
    assert added in special_ids(words) and special_ids(words) > set(words.all_special_ids) - {added}
