"""Greedy generation agrees with transformers, for every row of a batch alike."""

from collections import Counter
from dataclasses import replace
from itertools import takewhile

import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models
from tests.tiny_models import CONFIGS, CONTEXT, ODD_HEADS, WORDS

QUERIES = [
    Query(prompt, input)
    for prompt in (None, "cat", "dog bird up down", "red green blue one two three four")
    for input in (*WORDS[3:11], "one two three four", "left right up down big small left")
]
N_NEW = 12


@pytest.fixture(params=CONFIGS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_models.subject(request.param)


def reference(subject: Subject, query: Query) -> list[int]:
    """What transformers' own greedy search writes after the same ids, up to EOS."""
    prompt = subject.tokenizer(query.prompt or "", add_special_tokens=False)["input_ids"]
    bos = [1] if subject.tokenizer("cat")["input_ids"][0] == 1 else []
    ids = torch.tensor(
        [[*bos, *prompt, *subject.encode_input(query.input, "none" if query.prompt is None else "hard").body]]
    )
    out = subject.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=N_NEW)
    written = out[0, 1 if subject.is_encoder_decoder else ids.shape[1] :].tolist()
    return written[: written.index(2)] if 2 in written else written


def softened(subject: Subject, query: Query) -> Query:
    if query.prompt is None:
        return query
    return replace(query, prompt=SoftPrompt(embeddings=subject.embed_text(query.prompt).clone()))


@pytest.mark.parametrize("architecture", [*CONFIGS, *ODD_HEADS])
def test_batched_generation_equals_transformers_generate_one_by_one(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    assert subject.generate_ids(QUERIES, max_new_tokens=N_NEW) == [reference(subject, query) for query in QUERIES]


@pytest.mark.parametrize("architecture", [*CONFIGS, *ODD_HEADS])
def test_the_tiny_models_write_outputs_of_many_kinds_and_lengths(architecture: str) -> None:
    """Else agreement in the tests here would mean little."""
    subject = tiny_models.subject(architecture)
    rows = subject.generate_ids(QUERIES, max_new_tokens=N_NEW)
    assert len({tuple(row) for row in rows}) >= len(QUERIES) // 4
    assert len({token for row in rows for token in row}) >= 5
    assert len({len(row) for row in rows}) >= 2


def test_a_soft_prompt_of_a_hard_prompts_embeddings_generates_the_same(subject: Subject) -> None:
    soft = [softened(subject, query) for query in QUERIES]
    assert subject.generate_ids(soft, max_new_tokens=N_NEW) == subject.generate_ids(QUERIES, max_new_tokens=N_NEW)


def test_batch_mates_change_no_generation(subject: Subject) -> None:
    mixed = [softened(subject, query) if index % 2 else query for index, query in enumerate(QUERIES)]
    alone = [subject.generate_ids([query], max_new_tokens=N_NEW)[0] for query in mixed]
    assert subject.generate_ids(mixed, max_new_tokens=N_NEW) == alone
    assert subject.generate_ids(mixed, max_new_tokens=N_NEW, batch_tokens=100) == alone


def test_generate_returns_the_stripped_text_of_the_tokens(subject: Subject) -> None:
    rows = subject.generate_ids(QUERIES[:5], max_new_tokens=4)
    words = [*tiny_models.SPECIAL, *WORDS]
    expected = [" ".join(words[token] for token in row if token > 3) for row in rows]
    assert subject.generate(QUERIES[:5], max_new_tokens=4) == expected


def test_one_token_can_be_generated(subject: Subject) -> None:
    longer = subject.generate_ids(QUERIES, max_new_tokens=N_NEW)
    assert subject.generate_ids(QUERIES, max_new_tokens=1) == [row[:1] for row in longer]


@pytest.mark.parametrize("architecture", [*CONFIGS, "bart"])
def test_rows_that_end_early_leave_the_others_as_they_were(architecture: str) -> None:
    """Every end token of the generation config counts; here they end most rows at once, and those are dropped."""
    free = tiny_models.subject(architecture).generate_ids(QUERIES, max_new_tokens=N_NEW)
    stops: list[int] = []
    for token, _ in Counter(row[0] for row in free if row).most_common():
        if sum(row[:1] == [] or row[0] in stops for row in free) < len(free) / 2:
            stops.append(token)
    model = tiny_models.model(architecture)
    model.generation_config.eos_token_id = [2, *stops]
    rows = Subject(model, tiny_models.tokenizer(architecture), name="tiny").generate_ids(QUERIES, max_new_tokens=N_NEW)
    assert rows == [list(takewhile(lambda token: token not in stops, row)) for row in free]
    assert any(len(row) > 2 for row in rows)


def test_the_largest_generation_that_fits_the_context_runs_and_one_more_token_is_refused() -> None:
    subject = tiny_models.subject("gpt2")
    room = CONTEXT - len(subject.encode_input("cat", "none").body)
    subject.generate([Query(None, "cat")], max_new_tokens=room)
    with pytest.raises(UserError, match=f"{CONTEXT + 1} tokens.*{CONTEXT}"):
        subject.generate([Query(None, "cat")], max_new_tokens=room + 1)


def test_generating_no_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="0 tokens"):
        tiny_models.subject("llama").generate([Query(None, "cat")], max_new_tokens=0)


# --- sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*CONFIGS, "bart"])
def test_the_likeliest_token_alone_is_what_greedy_search_writes(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    seeds = [[f"{i}/{n}" for n in range(2)] for i in range(len(QUERIES))]
    found = subject.sample(QUERIES, seeds, 1, N_NEW)
    assert found == [[text, text] for text in subject.generate(QUERIES, N_NEW)]


def test_tokens_are_drawn_by_the_probabilities_of_the_likeliest(subject: Subject) -> None:
    query, n, k = QUERIES[5], 2000, 3
    drawn = Counter(subject.sample([query], [[str(i) for i in range(n)]], k, 1)[0])
    [row] = subject.target_distributions([replace(query, output="cat")])
    best = row[0].topk(k)
    expected = Counter()
    for id_, share in zip(best.indices.tolist(), best.values.softmax(0).tolist(), strict=True):
        expected[subject.output_text([id_])] += share
    assert set(drawn) == set(expected)
    assert all(abs(drawn[text] / n - share) < 4 * (share * (1 - share) / n) ** 0.5 for text, share in expected.items())


def test_a_sample_depends_on_its_seed_and_query_alone(subject: Subject) -> None:
    seeds = [[f"{i}/{n}" for n in range(3)] for i in range(len(QUERIES))]
    together = subject.sample(QUERIES, seeds, 5, N_NEW)
    alone = [subject.sample([query], [own], 5, N_NEW)[0] for query, own in zip(QUERIES, seeds, strict=True)]
    assert together == alone
    assert subject.sample(QUERIES[:1], [["other", "0/1"]], 5, N_NEW)[0][1] == together[0][1]
    assert len({text for texts in together for text in texts}) > len(QUERIES)
