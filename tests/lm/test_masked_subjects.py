"""Masked language models as subjects, and prompts behind the input: the numbers are those of the model's own logits."""

import json

import pytest
import torch
from transformers import AddedToken

from soft2hard.api.requests import ApiModel, make_request
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.pez import Pez
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.eval.transfer.exporting import Prompt
from soft2hard.lm.settings import Loading
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import read_template
from soft2hard.translator.probing import Closing, invented_inputs
from soft2hard.translator.translate import TranslateConfig, translate
from soft2hard.translator.verification import Verifier
from tests import tiny_models, tiny_tokenizers

BEHIND = "{input} {prompt} two {output} three"
CAUSAL = "{input} {prompt} two {output}"
QUERIES = [
    Query("red big", "cat dog up", "left"),
    Query("red big", "fish", "right"),
    Query("four", "bird fish cat", "left"),
    Query(None, "one", "down"),
]
"""Of unlike lengths, so that batches are padded."""


def subject(architecture: str, template: str = BEHIND) -> Subject:
    return Subject(tiny_models.model(architecture), tiny_models.tokenizer(architecture), name="tiny", template=template)


def logits(of: Subject, text: str) -> torch.Tensor:
    """The model's own, where the mask of a text is."""
    ids = of.tokenizer(text, return_tensors="pt")["input_ids"]
    at = (ids[0] == of.tokenizer.mask_token_id).nonzero().item()
    with torch.no_grad():
        return of.model(input_ids=ids).logits[0, at]


def text(query: Query) -> str:
    """As arXiv 2205.12548 has it: input, prompt, and here a word of the template, before the mask."""
    return " ".join(filter(None, [query.input, query.prompt, "two <mask> three"]))


@pytest.mark.parametrize("architecture", tiny_models.MASKED)
def test_a_masked_subject_gives_the_models_own_probabilities_at_the_mask(architecture: str):
    lm = subject(architecture)
    for query, score in zip(QUERIES, lm.target_scores(QUERIES), strict=True):
        expected = logits(lm, text(query)).log_softmax(-1)
        token = lm.tokenizer.convert_tokens_to_ids(query.output)
        assert score.log_likelihood == pytest.approx(expected[token].item(), abs=1e-4)
        assert score.n_tokens == 1
        assert score.greedy_match == (expected.argmax().item() == token)


@pytest.mark.parametrize("architecture", tiny_models.MASKED)
def test_a_masked_subject_writes_the_likeliest_token(architecture: str):
    lm = subject(architecture)
    written = lm.generate_ids(QUERIES, max_new_tokens=5)
    assert written == [[logits(lm, text(query)).argmax().item()] for query in QUERIES]


def test_the_plain_template_reads_no_ending_behind_the_mask():
    lm = subject("bert", "plain")
    query = Query("red big", "cat", "left")
    own = logits(lm, "red big Input: cat Output: <mask>").log_softmax(-1)
    token = lm.tokenizer.convert_tokens_to_ids("left")
    assert lm.target_scores([query])[0].log_likelihood == pytest.approx(own[token].item(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_soft_prompt_of_a_texts_embeddings_acts_as_the_text(architecture: str):
    lm = subject(architecture)
    vectors = lm.embed_text("red big").detach()
    soft = [Query(SoftPrompt(vectors), query.input, query.output) for query in QUERIES[:2]]
    found, expected = lm.target_scores(soft), lm.target_scores(QUERIES[:2])
    assert [s.log_likelihood for s in found] == pytest.approx([s.log_likelihood for s in expected], abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_causal_subject_reads_the_prompt_behind_the_input(architecture: str):
    lm = subject(architecture, CAUSAL)
    for query, score in zip(QUERIES, lm.target_scores(QUERIES), strict=True):
        read = lm.tokenizer(text(query).removesuffix(" <mask> three"))["input_ids"]
        left = lm.tokenizer.convert_tokens_to_ids(query.output)
        with torch.no_grad():
            own = lm.model(torch.tensor([[*read, left]])).logits[0, len(read) - 1 :].log_softmax(-1)
        expected = own[0, left] + own[1, lm.tokenizer.eos_token_id]
        assert score.log_likelihood == pytest.approx(expected.item(), abs=1e-4)


def test_an_encoder_reads_the_prompt_behind_the_input():
    lm = subject("t5", CAUSAL)
    for query, score in zip(QUERIES, lm.target_scores(QUERIES), strict=True):
        read = lm.tokenizer(text(query).removesuffix(" <mask> three"), return_tensors="pt")["input_ids"]
        left = lm.tokenizer.convert_tokens_to_ids(query.output)
        with torch.no_grad():
            own = lm.model(read, decoder_input_ids=torch.tensor([[0, left]])).logits[0].log_softmax(-1)
        expected = own[0, left] + own[1, lm.tokenizer.eos_token_id]
        assert score.log_likelihood == pytest.approx(expected.item(), abs=1e-4)


def test_what_is_written_behind_an_input_and_a_prompt_is_the_models_own():
    lm = subject("gpt2", CAUSAL)
    for query, ids in zip(QUERIES, lm.generate_ids(QUERIES, max_new_tokens=4), strict=True):
        read = lm.tokenizer(text(query).removesuffix(" <mask> three"), return_tensors="pt")["input_ids"]
        out = lm.model.generate(read, attention_mask=torch.ones_like(read), do_sample=False, max_new_tokens=4)
        own = out[0, read.shape[1] :].tolist()
        ends = [i for i, token in enumerate(own) if token in lm.endings.ids]
        assert ids == own[: ends[0] if ends else None]


def labelled_task() -> Task:
    """Animals and colours, named by a word each."""
    kinds = {"cat": "one", "dog": "one", "bird": "one", "fish": "one", "red": "two", "green": "two", "blue": "two"}
    examples = tuple(Example(word, label) for word, label in kinds.items())
    return Task(
        "kinds", "made up", "Say one for an animal.", (), examples, examples, examples, ("one", "two"), "label_accuracy"
    )


@pytest.mark.parametrize("architecture", ["roberta", "gpt2"])
def test_a_soft_prompt_behind_the_input_is_tuned_and_measured(architecture: str):
    lm = subject(architecture, "{input} {prompt} Output {output} three")
    config = Tuning(n_tokens=4, steps=60, batch_size=7, eval_every=20, lr=1.0, init="vocabulary")
    (tuned,) = Tuner(lm, config).tune([labelled_task()])
    assert tuned.validation_loss < tuned.initial_loss - 0.3
    assert tuned.soft_prompt.template.input_first
    comparison = Comparison(labelled_task(), ("red", None, tuned.soft_prompt), tuned.soft_prompt)
    text, none, soft = measure(lm, [comparison])[0]
    assert soft.score >= max(text.score, none.score)
    assert soft.kl == pytest.approx(0, abs=1e-5) and soft.agreement == 1


def test_texts_for_a_masked_subjects_soft_prompt_are_verified_on_it():
    """Candidates come from elsewhere; the text whose vectors the soft prompt has wins, and is faithful."""
    lm = subject("roberta")
    vectors = lm.embed_text("red big").detach()
    inputs = [f"{a} {b}" for a in ("cat", "dog", "bird", "fish") for b in ("one", "two", "three", "four")]
    verifier = Verifier(lm)
    (probes,) = verifier.probe([SoftPrompt(vectors, template=lm.template)], [inputs])
    found = verifier.verify(["green small", "red big", "four"], probes)
    best = min(found, key=lambda one: one.divergence)
    assert best.text == "red big" and best.agreement == 1
    assert best.divergence == pytest.approx(0, abs=1e-4)


def test_search_and_sampling_refuse_a_masked_subject_in_one_line():
    lm = subject("roberta")
    prompt = SoftPrompt(lm.embed_text("red big").detach(), template=lm.template)
    with pytest.raises(UserError, match="is a masked language model, which continues no text"):
        translate([prompt], subject=lm, inputs=[["cat", "dog"]], config=TranslateConfig(propose=("search",)))
    with pytest.raises(UserError, match="masked language model, which writes no texts"):
        lm.sample([Query("red", "cat")], [["a"]], 3, 2)


@pytest.mark.parametrize("name", ["roberta", "t5"])
def test_without_a_translator_a_subject_that_continues_no_text_is_described_by_another_model_alone(name):
    lm = subject("roberta") if name == "roberta" else tiny_models.subject("t5")
    prompt = SoftPrompt(lm.embed_text("red big").detach(), template=lm.template)
    inputs = [f"{a} {b}" for a in ("cat", "dog", "bird", "fish") for b in ("one", "two", "three", "four")]
    with pytest.raises(UserError, match="writes no texts: no candidates come from it. Name a model .* --describer"):
        translate([prompt], subject=lm, inputs=[inputs])


def test_outputs_of_several_tokens_are_refused():
    with pytest.raises(UserError, match="fills in one token, and the output 'left right' is 2"):
        subject("bert").target_scores([Query("red", "cat", "left right")])


def test_a_subject_saved_as_masked_is_read_as_masked(tmp_path):
    lm = subject("roberta")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    read = Subject.from_pretrained(tmp_path, template=BEHIND)
    assert read.is_masked
    assert read.context_length == tiny_models.CONTEXT - 1  # positions begin behind that of the padding
    assert read.target_scores(QUERIES)[0].log_likelihood == pytest.approx(
        lm.target_scores(QUERIES)[0].log_likelihood, abs=1e-5
    )


@pytest.mark.parametrize("text", ["{prompt} {input} {prompt} {output}", "{prompt}{bos}{input} {prompt} {output}"])
def test_a_template_has_one_place_for_the_prompt(text: str):
    with pytest.raises(UserError, match="{prompt} twice"):
        read_template(text)


def test_a_label_that_is_one_token_only_behind_a_space_says_what_the_template_lacks():
    spaced = with_bpe("roberta")
    lm = Subject(spaced.model, spaced.tokenizer, name="tiny", template="{input} {prompt}")
    with pytest.raises(UserError, match="Write a space before {output} in the template"):
        lm.target_scores([Query("red", "cat", "great")])


def test_a_template_with_the_input_first_takes_no_solved_examples():
    with pytest.raises(UserError, match="has the prompt behind it"):
        read_template(BEHIND).template.few_shot_text([Example("cat", "one")])


def test_spaces_before_a_prompt_behind_the_input_are_part_of_it():
    template = read_template("{input} {prompt}{output} .").template
    assert [template.before_text("cat", kind) for kind in ("soft", "hard", "none")] == ["cat"] * 3
    assert template.hard_text("Great") == " Great"
    assert template.hard_text(" Great") == " Great"
    assert template.hard_text("") == ""


# --- byte-level BPE, where a leading space is part of a token -------------------------------------


def with_bpe(architecture: str) -> Subject:
    words = tiny_tokenizers.tokenizer("gpt2", [f"{' '.join(tiny_models.WORDS)} great . It was"] * 9, vocab_size=440)
    template = "{input} It was {prompt} {output} ."
    if architecture in tiny_models.MASKED:
        mask = AddedToken("<mask>", lstrip=True, special=True)  # as RoBERTa's
        words.add_special_tokens({"mask_token": mask, "sep_token": "</s>"})
    return Subject(tiny_models.model(architecture, vocab_size=len(words)), words, name="tiny", template=template)


def test_a_text_behind_the_input_is_tokenised_as_in_the_whole_text():
    lm = with_bpe("roberta")
    query = Query("big fish", "red cat", "great")
    own = logits(lm, "red cat It was big fish <mask> .").log_softmax(-1)
    [token] = lm.tokenizer(" great", add_special_tokens=False)["input_ids"]
    assert lm.target_scores([query])[0].log_likelihood == pytest.approx(own[token].item(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_pez_judges_a_text_behind_the_input_as_it_is_measured(architecture: str):
    lm = with_bpe(architecture)
    examples = tuple(Example(word, "great" if i % 2 else "cat") for i, word in enumerate(tiny_models.WORDS[5:17]))
    task = Task("t", "f", "", (), examples[:8], examples[8:], (), None, "exact_match")
    search = Pez(n_tokens=3, steps=6, batch_size=4, eval_every=2)
    (outcome,) = search.run([Case(task)], Bench(lm))
    for point in outcome.trace["curve"]:
        scores = lm.target_scores([Query(point["prompt"], e.input, e.output) for e in task.validation])
        own = [-score.log_likelihood / score.n_tokens for score in scores]
        assert point["loss"] == pytest.approx(sum(own) / len(own), rel=1e-3)


# --- endings --------------------------------------------------------------------------------------


def test_a_token_that_is_the_ending_is_an_answer_of_a_masked_subject():
    """Texts under which it is as likely as under the soft prompt differ from those under which it is not."""
    lm = subject("roberta", "{input} {prompt} two {output}three")
    three = lm.tokenizer.convert_tokens_to_ids("three")
    with torch.no_grad():
        lm.model.lm_head.bias[three] += 30
    verifier = Verifier(lm)
    soft = SoftPrompt(lm.embed_text("red big").detach(), template=lm.template)
    (probes,) = verifier.probe([soft], [["cat", "dog", "bird one"]])
    assert probes.ids == ((three,),) * 3 and probes.outputs == ("three",) * 3
    same, other = verifier.verify(["red big", "fish"], probes)
    assert same.divergence == pytest.approx(0, abs=1e-6) and other.n_positions == 3
    with torch.no_grad():
        lm.model.lm_head.bias[three] -= 30


def test_stops_and_outputs_that_hold_them_change_nothing_of_what_a_masked_subject_reads():
    plain, stopped = (
        subject("bert"),
        Subject(
            tiny_models.model("bert"),
            tiny_models.tokenizer("bert"),
            name="tiny",
            template=BEHIND,
            loading=Loading(stop=("four",)),
        ),
    )
    expected = [score.log_likelihood for score in plain.target_scores(QUERIES)]
    for other in (stopped, plain.for_outputs(["one three"])):
        assert [score.log_likelihood for score in other.target_scores(QUERIES)] == pytest.approx(expected)


# --- the input first: what else must know ---------------------------------------------------------


def test_requests_and_exports_have_the_prompt_behind_the_input():
    template = read_template("{input} It was {prompt} {output} .").template
    assert template.query_text("PROMPT", "INPUT") == "INPUT It was PROMPT"
    assert template.query_text(None, "INPUT") == "INPUT"
    model = ApiModel(name="m", layout="completion", base_url="http://127.0.0.1:1/v1")
    request = make_request(model, "PROMPT", "INPUT", {}, template=template)
    assert request.body["prompt"] == "INPUT It was PROMPT"
    assert Prompt("t", "PROMPT", template=template).message("INPUT") == "INPUT It was PROMPT"


def test_inputs_are_invented_up_to_what_stands_between_input_and_prompt():
    lm = subject("gpt2", "Input {input} : {prompt} two {output}")
    assert Closing(lm).input(lm.tokenizer("cat dog : red two")["input_ids"]) == "cat dog"
    nothing_before = subject("gpt2", CAUSAL)
    assert invented_inputs(nothing_before, [["red", "big"]], 3) == [[]]


def test_demonstrations_are_refused_before_anything_is_searched():
    lm = subject("gpt2", CAUSAL)
    prompt = SoftPrompt(lm.embed_text("red big").detach(), template=lm.template)
    with pytest.raises(UserError, match="has the prompt behind it"):
        translate(
            [prompt], subject=lm, inputs=[["cat", "dog"]], config=TranslateConfig(propose=("search",), demonstrations=2)
        )


def test_an_adapter_for_peft_cannot_hold_virtual_tokens_behind_the_input(tmp_path):
    template = read_template(CAUSAL).template
    with pytest.raises(UserError, match="PEFT knows no virtual tokens behind the input"):
        SoftPrompt(torch.zeros(2, 16), template=template).save_pretrained(tmp_path / "adapter", base_model="m")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
def test_a_folder_that_names_no_class_is_read_as_masked_where_its_type_is(tmp_path, architecture: str):
    lm = subject(architecture)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Subject.from_pretrained(tmp_path, template=BEHIND).is_masked
