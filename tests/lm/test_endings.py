"""All that ends an output is one event: in probabilities, in what is likeliest, and where generation stops."""

import copy
from collections import Counter

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.settings import Loading
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template, read_template
from tests import tiny_tokenizers

TEXTS = ["red cat\nInput: blue dog\n\nOutput: up?\nInput: down", "one two\nthree four\n\nfive"] * 4
QUERIES = [Query(prompt, input) for prompt in (None, "red", "up down") for input in ("cat", "blue dog", "one", "five")]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A random model over bytes and short pieces, some of which begin with a line break."""
    tokenizer = tiny_tokenizers.tokenizer("gpt2", TEXTS)
    tokenizer.add_tokens(["\n\n", "?\n"])
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes))
    subject = Subject(model.eval(), tokenizer, name="bytes", template=Template(stops=()))
    # A line break where the model would have written a token that it likes, as pretrained ones write it after answers.
    liked = Counter(token for row in subject.generate_ids(QUERIES, max_new_tokens=12) for token in row[2:])
    with torch.no_grad():
        model.lm_head.weight[tokenizer.encode("\n")[0]] = 1.05 * model.lm_head.weight[liked.most_common(1)[0][0]]
    return Subject(model, tokenizer, name="bytes")


def test_endings_are_eos_and_every_token_that_begins_with_a_stop(subject: Subject) -> None:
    tokenizer = subject.tokenizer
    begin = [i for i in range(len(tokenizer)) if tokenizer.decode([i]).startswith("\n")]
    assert len(begin) >= 2
    assert subject.endings.ids == [tokenizer.eos_token_id, *begin]


def test_likelihoods_count_the_probability_of_all_endings_where_an_output_ends(subject: Subject) -> None:
    for prompt in ("red", None):
        [score] = subject.target_scores([Query(prompt, "cat", "dog")])
        body = subject.encode_input("cat", "hard" if prompt else "none").body
        output = subject.encode_output("dog")
        ids = torch.tensor([[*subject.tokenizer.encode(prompt or ""), *body, *output[:-1]]])
        with torch.no_grad():
            p = subject.model(ids).logits[0, -len(output) :].softmax(-1)
        expected = sum(float(p[i, token].log()) for i, token in enumerate(output[:-1]))
        expected += float(p[-1, subject.endings.ids].sum().log())
        assert score.log_likelihood == pytest.approx(expected, abs=1e-4)


def test_distributions_give_eos_the_probability_of_all_endings_and_sum_to_one(subject: Subject) -> None:
    query = Query("red", "cat", "dog")
    [found] = subject.target_distributions([query])
    [plain] = subject.with_template(Template(stops=())).target_distributions([query])
    eos, others = subject.endings.ids[0], subject.endings.ids[1:]
    torch.testing.assert_close(found.exp()[:, eos], plain.exp()[:, subject.endings.ids].sum(-1))
    assert (found.exp()[:, others] == 0).all()
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(len(found)))


def test_gradients_of_losses_are_those_of_the_event(subject: Subject) -> None:
    hidden = torch.randn(3, subject.d_model, requires_grad=True)
    ids = torch.tensor([5, subject.endings.eos_id, 7])
    loss = subject.scorer.losses(hidden, ids).sum()
    p = subject.head(hidden).softmax(-1)
    expected = -(p[0, 5].log() + p[1, subject.endings.ids].sum().log() + p[2, 7].log())
    for found, wanted in zip(*(torch.autograd.grad(x, hidden) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_generation_stops_at_the_first_ending_of_transformers_own(subject: Subject) -> None:
    written = subject.generate(QUERIES, max_new_tokens=12)
    n_cut = 0
    for query, text in zip(QUERIES, written, strict=True):
        body = subject.encode_input(query.input, "hard" if query.prompt else "none").body
        ids = torch.tensor([[*subject.tokenizer.encode(query.prompt or ""), *body]])
        mask = torch.ones_like(ids)
        row = subject.model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        full = subject.tokenizer.decode(row, skip_special_tokens=True)
        n_cut += "\n" in full
        assert text == full.split("\n")[0].strip()
    assert n_cut


def test_what_is_generated_matches_its_own_greedy_tokens(subject: Subject) -> None:
    rows = subject.generate_ids(QUERIES, max_new_tokens=12)
    ended = [(query, [*row, subject.endings.eos_id]) for query, row in zip(QUERIES, rows, strict=True) if len(row) < 12]
    assert any(len(row) > 1 for _, row in ended)
    prompts = [subject.prompt_embeddings(query.prompt) for query, _ in ended]
    kinds = ["hard" if query.prompt else "none" for query, _ in ended]
    bodies = [subject.encode_input(query.input, kind).body for (query, _), kind in zip(ended, kinds, strict=True)]
    examples = [[EncodedExample(body, row)] for body, (_, row) in zip(bodies, ended, strict=True)]
    for number, hidden in subject.scorer.hidden_states(prompts, examples):
        assert subject.scorer.likeliest(hidden).tolist() == ended[number][1]


def test_the_likeliest_token_is_eos_where_any_ending_is(subject: Subject) -> None:
    logits = torch.zeros(3, len(subject.tokenizer))
    line_break = subject.tokenizer.encode("\n")[0]
    logits[0, line_break] = logits[1, subject.endings.eos_id] = logits[2, 7] = 1.0
    assert subject.endings.likeliest(logits).tolist() == [subject.endings.eos_id, subject.endings.eos_id, 7]


def test_a_stop_of_several_tokens_ends_what_is_generated(subject: Subject) -> None:
    plain = subject.with_template(Template(stops=()))
    texts = plain.generate(QUERIES, max_new_tokens=12)
    tokens = [text for text in subject.endings._texts if text]
    parts = [text[i : i + 3] for text in texts for i in range(3, len(text) - 3)]
    stop = next(part for part in parts if not any(text.startswith(part) for text in tokens))
    under = subject.with_template(Template(stops=(stop,)))
    assert under.endings.long_stops == (stop,) and under.endings.ids == subject.endings.eos_ids
    assert under.generate(QUERIES, max_new_tokens=12) == [text.split(stop)[0].strip() for text in texts]


def test_tokens_beyond_the_models_table_are_no_endings(subject: Subject) -> None:
    tokenizer = copy.deepcopy(subject.tokenizer)
    tokenizer.add_tokens(["\n\n\n"])
    larger = Subject(subject.model, tokenizer, name="bytes")
    assert larger.endings.ids == subject.endings.ids


def test_an_output_that_holds_an_ending_is_scored_as_it_stands(subject: Subject) -> None:
    query = Query("red", "cat", "one\ntwo")
    examples = (Example("cat", "one\ntwo"),)
    task = Task("lines", "t", "", (), (), (), examples)
    [score] = subject.target_scores([query])
    [[measured]] = measure(subject, [Comparison(task, ("red",))])
    assert measured.loss == pytest.approx(-score.log_likelihood / score.n_tokens, rel=1e-4)
    assert measured.loss < 100


def test_outputs_of_several_lines_end_where_the_next_block_begins() -> None:
    template = Template()
    assert template.for_outputs(["one", "two"]) is template
    assert template.for_outputs(["one", "two\nlines"]).stops == ("\nInput:",)
    assert template.for_outputs(["two\nlines"]).cut(" two\nlines\nInput: next") == "two\nlines"
    without = read_template("{input}\\nAnswer:").template
    assert without.for_outputs(["two\nlines"]).stops == (), "nothing begins the next block; EOS alone ends an output"


def test_soft_prompts_that_record_no_template_end_as_their_subject_does(subject: Subject) -> None:
    vectors = torch.zeros(2, subject.d_model)
    foreign, recorded = SoftPrompt(vectors, place="first"), SoftPrompt(vectors, template=Template())
    longer = subject.for_outputs(["two\nlines"])
    assert longer.for_prompts([foreign]).template.stops == longer.template.stops == ("\nInput:",)
    assert longer.for_prompts([foreign]).template.place == "first"
    assert longer.for_prompts([recorded]).template.stops == ("\n",)
    assert subject.for_prompts([foreign]).template.stops == ("\n",)


def test_a_stop_that_an_output_holds_is_refused(subject: Subject) -> None:
    user = Subject(subject.model, subject.tokenizer, name="bytes", loading=Loading(stop=("dog",)))
    assert user.endings.stops == ("\n", "dog")
    assert user.for_outputs(["two\nlines"]).endings.stops == ("dog", "\nInput:")
    with pytest.raises(UserError, match="holds the stop 'dog'.*Leave this --stop out"):
        user.for_outputs(["a dog"])
