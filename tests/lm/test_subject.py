"""A subject's scores are those of the model itself, and depend on nothing but the query."""

import copy
import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.lm.settings import Loading
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from tests import tiny_models
from tests.tiny_models import CONFIGS, CONTEXT, ODD_HEADS

QUERIES = [
    Query("cat dog bird", "red", "blue"),
    Query(None, "one two three", "four small"),
    Query("up", "left right left right up down up down", "big"),
    Query("fish fish green red blue one two three four big small", "cat", "dog up up"),
    Query("cat dog bird", "zebra", "two"),
]
"""Prompts, inputs and outputs of many lengths, with one word the tokenizer does not know."""


@pytest.fixture(params=CONFIGS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_models.subject(request.param)


def softened(subject: Subject, query: Query) -> Query:
    """The same query with the embeddings of its hard prompt as a soft prompt."""
    if query.prompt is None:
        return query
    return replace(query, prompt=SoftPrompt(subject.embed_text(query.prompt).clone(), scale=subject.embedding_scale))


def reference(subject: Subject, query: Query) -> tuple[Tensor, list[int]]:
    """Log-probabilities at the output's tokens by the model's own forward on plain ids, and those tokens."""
    tokenizer, template = subject.tokenizer, subject.template
    prompt = query.prompt or ""
    body = template.body_text(query.input, "hard" if prompt else "none")
    plain = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (prompt, body, template.output_text(query.output))
    ]
    around = tokenizer("cat")["input_ids"]
    begin, end = around[: around.index(4 + 3)], around[around.index(4 + 3) + 1 :]  # "cat" is the fourth word
    read, target = [*begin, *plain[0], *plain[1], *end], [*plain[2], tokenizer.eos_token_id]
    with torch.no_grad():
        if subject.is_encoder_decoder:
            decoder_ids = torch.tensor([[subject.model.config.decoder_start_token_id, *target[:-1]]])
            logits = subject.model(input_ids=torch.tensor([read]), decoder_input_ids=decoder_ids).logits[0]
        else:
            logits = subject.model(input_ids=torch.tensor([read + target])).logits[0, len(read) - 1 : -1]
    return logits.log_softmax(dim=-1), target


@pytest.mark.parametrize("architecture", [*CONFIGS, *ODD_HEADS])
def test_distributions_equal_the_models_own_logits_on_plain_ids(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    for query, found in zip(QUERIES, subject.target_distributions(QUERIES), strict=True):
        torch.testing.assert_close(found, reference(subject, query)[0], atol=1e-4, rtol=1e-4)


def test_log_likelihood_is_the_sum_of_the_models_own_log_probabilities(subject: Subject) -> None:
    for query, score in zip(QUERIES, subject.target_scores(QUERIES), strict=True):
        logs, target = reference(subject, query)
        assert score.n_tokens == len(target)
        assert score.log_likelihood == pytest.approx(
            sum(float(row[i]) for row, i in zip(logs, target, strict=True)), abs=1e-4
        )


def test_greedy_match_holds_exactly_where_each_token_is_the_most_likely(subject: Subject) -> None:
    queries = [replace(query, output=word) for query in QUERIES for word in tiny_models.WORDS]
    expected = [
        bool((logs.argmax(-1) == torch.tensor(ids)).all()) for logs, ids in (reference(subject, q) for q in queries)
    ]
    assert [score.greedy_match for score in subject.target_scores(queries)] == expected


def test_greedy_match_is_true_of_what_is_generated_and_false_once_it_is_changed() -> None:
    subject = tiny_models.subject("llama")
    queries = [Query(prompt, input) for prompt in (None, "cat", "dog up") for input in tiny_models.WORDS]
    rows = subject.generate_ids(queries, max_new_tokens=8)
    ended = [(q, row) for q, row in zip(queries, rows, strict=True) if len(row) < 8 and min(row, default=9) > 3]
    assert ended
    own = [replace(query, output=subject.tokenizer.decode(row)) for query, row in ended]
    changed = [replace(query, output=query.output + " cat") for query in own]
    assert all(score.greedy_match for score in subject.target_scores(own))
    assert not any(score.greedy_match for score in subject.target_scores(changed))


def test_a_soft_prompt_of_a_hard_prompts_embeddings_scores_the_same(subject: Subject) -> None:
    soft = [softened(subject, query) for query in QUERIES]
    for hard_score, soft_score in zip(subject.target_scores(QUERIES), subject.target_scores(soft), strict=True):
        assert soft_score.log_likelihood == pytest.approx(hard_score.log_likelihood, abs=1e-4)
        assert soft_score.greedy_match == hard_score.greedy_match


@pytest.mark.parametrize("architecture", [*CONFIGS, *ODD_HEADS])
def test_a_soft_prompt_of_a_hard_prompts_embeddings_gives_the_same_distributions(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    soft = [softened(subject, query) for query in QUERIES]
    found = zip(subject.target_distributions(QUERIES), subject.target_distributions(soft), strict=True)
    for hard_logs, soft_logs in found:
        torch.testing.assert_close(soft_logs, hard_logs, atol=1e-4, rtol=1e-4)


def test_padding_and_batch_mates_change_no_distribution(subject: Subject) -> None:
    mixed = [softened(subject, query) if index % 2 else query for index, query in enumerate(QUERIES)]
    together = subject.target_distributions(mixed)
    for query, logs in zip(mixed, together, strict=True):
        torch.testing.assert_close(logs, subject.target_distributions([query])[0], atol=1e-4, rtol=1e-4)


def test_the_token_budget_of_a_batch_changes_no_score(subject: Subject) -> None:
    wide, narrow = subject.target_scores(QUERIES), subject.target_scores(QUERIES, batch_tokens=1)
    assert [s.log_likelihood for s in wide] == pytest.approx([s.log_likelihood for s in narrow], abs=1e-4)


def test_different_prompts_give_different_scores(subject: Subject) -> None:
    queries = [Query(prompt, "cat", "dog") for prompt in (None, "up", "down", "up down", "down up")]
    scores = sorted(score.log_likelihood for score in subject.target_scores(queries))
    assert all(later - earlier > 1e-4 for earlier, later in pairwise(scores))


def test_the_empty_text_is_no_prompt(subject: Subject) -> None:
    empty, none = subject.target_distributions([Query("", "cat", "dog"), Query(None, "cat", "dog")])
    torch.testing.assert_close(empty, none)


def test_no_queries_have_no_scores() -> None:
    subject = tiny_models.subject("llama")
    assert subject.target_scores([]) == subject.target_distributions([]) == subject.generate([]) == []


def test_the_body_does_not_depend_on_the_prompt_and_the_output_ends_with_eos() -> None:
    subject = tiny_models.subject("gpt2")
    ids = {word: 4 + i for i, word in enumerate(tiny_models.WORDS)}
    assert subject.encode_input("cat", "hard").body == [ids["Input"], ids[":"], ids["cat"], ids["Output"], ids[":"]]
    assert subject.encode_output("dog up") == [ids["dog"], ids["up"], 2]


def test_prompt_embeddings_begin_with_bos_where_the_tokenizer_adds_it() -> None:
    for architecture, ids in (("llama", [1, 7, 8]), ("gpt2", [7, 8])):
        subject = tiny_models.subject(architecture)
        found = subject.prompt_embeddings("cat dog")
        torch.testing.assert_close(found, subject.embedding[torch.tensor(ids)])
        torch.testing.assert_close(subject.prompt_embeddings(SoftPrompt(embeddings=found[-2:].clone())), found)


def test_a_template_can_add_or_leave_out_bos() -> None:
    for architecture, bos, length in (("gpt2", True, 1), ("llama", False, 0)):
        model, tokenizer = tiny_models.model(architecture), tiny_models.tokenizer(architecture)
        subject = Subject(model, tokenizer, name="tiny", template=Template(bos=bos))
        assert subject.prompt_embeddings(None).shape == (length, 16)


def test_gradients_reach_a_prompt_through_backbone_and_head_but_no_parameter(subject: Subject) -> None:
    prompt = subject.prompt_embeddings("cat dog").clone().requires_grad_()
    decoder = torch.tensor([[0, *subject.encode_output("up")[:-1]]]) if subject.is_encoder_decoder else None
    subject.head(subject.backbone(prompt[None], decoder_input_ids=decoder)).logsumexp(-1).sum().backward()
    assert prompt.grad is not None and (prompt.grad.abs().sum(dim=1) > 0).all()
    assert all(not p.requires_grad and p.grad is None for p in subject.model.parameters())
    assert not subject.model.training


def test_fingerprint_is_the_hash_of_all_that_changes_the_effect_of_a_vector(subject: Subject) -> None:
    table = subject.model.get_input_embeddings().weight.detach().float().numpy().tobytes()
    ids = subject.tokenizer("cat")["input_ids"]
    leading = ids[: ids.index(4 + 3)]  # "cat" is the fourth word
    expected = hashlib.sha256(table + subject.model.config.model_type.encode()).hexdigest()
    if leading:
        expected = hashlib.sha256(expected.encode() + json.dumps({"leading": leading}).encode()).hexdigest()
    assert subject.fingerprint == expected


def test_another_scale_or_other_leading_tokens_are_another_fingerprint() -> None:
    plain, gemma = tiny_models.subject("llama"), tiny_models.subject("gemma2")
    bare = Subject(plain.model, tiny_models.tokenizer("qwen3"), name="without BOS")
    assert plain.leading_ids and not bare.leading_ids
    assert plain.fingerprint != bare.fingerprint
    scaled = copy.deepcopy(gemma.model)
    scaled.get_input_embeddings().embed_scale *= 2
    assert Subject(scaled, gemma.tokenizer, name="another scale").fingerprint != gemma.fingerprint


def test_embedding_is_what_the_model_reads_even_where_the_lookup_scales_it() -> None:
    for architecture in ("gemma2", "bart", "opt"):
        subject = tiny_models.subject(architecture)
        looked_up = subject.model.get_input_embeddings()(torch.arange(tiny_models.VOCAB_SIZE))
        torch.testing.assert_close(subject.embedding, looked_up)
        assert subject.d_model == looked_up.shape[1]


def test_a_soft_prompt_of_another_width_is_refused(subject: Subject) -> None:
    soft_prompt = SoftPrompt(embeddings=torch.randn(3, subject.d_model + 1))
    for run in (subject.target_scores, subject.target_distributions, subject.generate):
        with pytest.raises(UserError, match=f"{subject.d_model + 1} wide"):
            run([Query(soft_prompt, "cat", "dog")])


def test_a_soft_prompt_of_another_model_is_refused_and_its_own_subject_named() -> None:
    subject, other = tiny_models.subject("llama"), tiny_models.subject("llama", seed=1)
    vectors = torch.randn(3, subject.d_model)
    subject.check(SoftPrompt(embeddings=vectors))
    subject.check(SoftPrompt(embeddings=vectors, fingerprint=subject.fingerprint))
    strange = SoftPrompt(embeddings=vectors, subject="other-llama", fingerprint=other.fingerprint)
    with pytest.raises(UserError, match="another model.*other-llama"):
        subject.target_scores([Query(strange, "cat", "dog")])
    with pytest.raises(UserError, match="another model"):
        subject.prompt_embeddings(strange)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "opt", "bart"])
def test_a_query_longer_than_the_context_is_refused(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    around = len(subject.prompt_embeddings(None)) + len(subject.encode_input("", "hard").body)
    answer = 0 if subject.is_encoder_decoder else len(subject.encode_output("dog"))
    room = CONTEXT - around - answer
    subject.target_scores([Query("cat " * room, "", "dog")])
    with pytest.raises(UserError, match=f"{CONTEXT + 1} tokens.*{CONTEXT}"):
        subject.target_scores([Query("cat " * (room + 1), "", "dog")])


def test_architectures_without_a_limit_read_long_queries() -> None:
    for architecture in ("bloom", "t5"):
        assert tiny_models.subject(architecture).target_scores([Query("cat " * (2 * CONTEXT), "", "dog")])


def test_a_query_without_output_cannot_be_scored() -> None:
    with pytest.raises(UserError, match="without an output"):
        tiny_models.subject("llama").target_scores([Query("cat", "dog")])


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = tiny_models.tokenizer("llama")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="end-of-sequence"):
        Subject(tiny_models.model("llama"), tokenizer, name="tiny")


def test_a_template_that_asks_for_a_missing_bos_is_refused() -> None:
    tokenizer = tiny_models.tokenizer("gpt2")
    tokenizer.bos_token = None
    with pytest.raises(UserError, match="BOS"):
        Subject(tiny_models.model("gpt2"), tokenizer, name="tiny", template=Template(bos=True))


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused() -> None:
    model = tiny_models.model("llama")
    model.register_forward_hook(lambda module, args, output: output.__class__(logits=output.logits * 1.5))
    with pytest.raises(UserError, match="'llama' compute their logits"):
        Subject(model, tiny_models.tokenizer("llama"), name="tiny")


def test_a_soft_prompt_of_gemma_says_if_it_includes_the_scale_and_is_converted_or_refused() -> None:
    """Transformers 5.4 moved the scale of Gemma 1 and 2 from the backbone into the lookup of tokens."""
    subject = tiny_models.subject("gemma2")
    assert subject.embedding_scale == pytest.approx(subject.d_model**0.5)
    vectors = subject.embed_text("cat dog").clone()
    now, before = (
        SoftPrompt(vectors, scale=subject.embedding_scale),
        SoftPrompt(vectors / subject.embedding_scale, scale=1.0),
    )
    found = [
        subject.target_scores([Query(prompt, "up", "down")])[0].log_likelihood for prompt in (now, before, "cat dog")
    ]
    assert found == pytest.approx([found[2]] * 3, abs=1e-4)
    with pytest.raises(UserError, match="does not say if its vectors include the factor.*--embedding-scale included"):
        subject.check(SoftPrompt(vectors))
    torch.testing.assert_close(subject.in_own_scale(before).embeddings, now.embeddings)
    assert subject.in_own_scale(before).scale == subject.embedding_scale


@pytest.mark.parametrize("said", ["included", "left-out"])
def test_the_scale_that_the_user_names_is_that_of_soft_prompts_that_do_not_say_it(said: str) -> None:
    bare = tiny_models.subject("gemma2")
    named = Subject(bare.model, bare.tokenizer, name="tiny", loading=Loading(embedding_scale=said))
    factor = bare.embedding_scale if said == "left-out" else 1.0
    vectors = bare.embed_text("cat dog").clone()
    found = named.target_scores([Query(SoftPrompt(vectors / factor), "up", "down"), Query("cat dog", "up", "down")])
    assert found[0].log_likelihood == pytest.approx(found[1].log_likelihood, abs=1e-4)
    other = tiny_models.subject("gemma3")
    other = Subject(other.model, other.tokenizer, name="tiny", loading=Loading(embedding_scale=said))
    with pytest.raises(UserError, match="never had another scale.*Leave --embedding-scale out"):
        other.check(SoftPrompt(other.embed_text("cat").clone()))


def test_a_soft_prompt_of_an_earlier_version_is_still_known_by_its_fingerprint() -> None:
    subject = tiny_models.subject("llama")
    table = subject.model.get_input_embeddings().weight.detach().numpy().tobytes()
    earlier = hashlib.sha256(table + b"llama").hexdigest()
    assert earlier != subject.fingerprint
    subject.check(SoftPrompt(subject.embed_text("cat").clone(), fingerprint=earlier))
    known = SoftPrompt(subject.embed_text("cat").clone(), fingerprint=earlier, scale=1.0)
    with pytest.raises(UserError, match="another model"):  # of a version that knows leading tokens, and there were none
        subject.check(known)
