"""Labelled examples tell whether a soft prompt from elsewhere is read as it was tuned, in layout and scale."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soft2hard.data_gen.taskfiles import read_examples
from soft2hard.data_gen.tasks import Example
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Place, Template, read_template
from soft2hard.storage.names import embedded_path
from soft2hard.translator.layout import LayoutCheck, as_string, better_layout, check_layout, likelier_scale
from tests import tiny_models, tiny_tokenizers, tiny_training

SAMPLES = sorted(Path("soft2hard/checkpoints/embedded/soft_prompts").glob("*.safetensors"))
WORDS = tiny_models.WORDS[3:]


@pytest.mark.parametrize("path", SAMPLES[:3], ids=lambda path: path.stem)
def test_a_soft_prompt_fits_its_own_layout_and_not_another(path: Path) -> None:
    soft_prompt, examples = SoftPrompt.from_pretrained(path), read_examples(path.with_suffix(".jsonl"))
    unknown = replace(soft_prompt, template=None)
    own = check_layout(Subject.from_pretrained(embedded_path("subject")), unknown, examples)
    other = Subject.from_pretrained(embedded_path("subject"), template="Text: {input}\\nLabel:")
    elsewhere = check_layout(other, unknown, examples)
    assert not own.fits_badly and own.soft < 0.1
    assert own.soft < elsewhere.soft
    assert own.n_right > 0.9 * own.n and not own.is_often_wrong
    nonsense = replace(unknown, embeddings=torch.zeros_like(unknown.embeddings))
    assert check_layout(other, nonsense, examples).fits_badly and better_layout(other, nonsense, examples) is None


@pytest.mark.parametrize("path", SAMPLES[6:9], ids=lambda path: path.stem)
def test_examples_tell_the_layout_that_a_soft_prompt_was_tuned_under(path: Path) -> None:
    unknown, examples = (
        replace(SoftPrompt.from_pretrained(path), template=None),
        read_examples(path.with_suffix(".jsonl")),
    )
    elsewhere = Subject.from_pretrained(embedded_path("subject"), template="Text: {input}\\nLabel:")
    assert better_layout(elsewhere, unknown, examples).text == "Input: {input}\nOutput: "
    assert better_layout(Subject.from_pretrained(embedded_path("subject")), unknown, examples) is None


EXAMPLES = [Example(f"{a} {b}", "up") for a in ("cat", "dog", "red") for b in ("one", "two", "cat")]


def tried(monkeypatch: pytest.MonkeyPatch, wins: str = "") -> list[Template]:
    """The templates that are tried from now on; outputs are likeliest under the one that `wins`."""
    found: list[Template] = []
    winner = replace(read_template(wins).template, place=read_template(wins).place) if wins else None

    def nlls(subject: Subject, prompt: object, templates: list[Template], examples: list[Example]) -> list[float]:
        found.extend(templates)
        names = {"output_prefix": 0.5, "input_prefix": 0.3, "place": 0.1}
        return [
            9.0
            if prompt is None
            else 1.0 - sum(w for n, w in names.items() if getattr(t, n) == getattr(winner, n, ...))
            for t in templates
        ]

    monkeypatch.setattr("soft2hard.translator.layout._nlls", nlls)
    monkeypatch.setattr("soft2hard.translator.layout.check_layout", lambda *of: None)
    return found


@pytest.mark.parametrize("text", ["{input} A: {output}", "Read this: {input} Then say "])
def test_the_space_before_an_output_is_tried_on_the_other_side_of_any_template(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a template in words of one's own that none of the common ones resembles."""
    subject, found = tiny_models.subject("llama"), tried(monkeypatch)
    asked = Subject(subject.model, subject.tokenizer, name="s", template=text)
    better_layout(asked, SoftPrompt(subject.embed_text("up red").clone(), place="first"), EXAMPLES)
    other = read_template(text.replace("{output}", "") if "{output}" in text else f"{text}{{output}}").template
    assert replace(other, place="first") in found


@pytest.mark.parametrize("wins", ["{prompt}{bos}Q: {input}\\nA: ", "{bos}{prompt}{input} -> "])
def test_both_places_of_the_vectors_are_tried_where_nothing_says_which(
    wins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, found = tiny_models.subject("llama"), tried(monkeypatch, wins)
    layout = better_layout(subject, SoftPrompt(subject.embed_text("up red").clone()), EXAMPLES)
    assert layout.text.removesuffix("{output}") == wins.replace("\\n", "\n")
    assert {(t.soft_separator, t.place) for t in found} >= {(None, "first"), (None, "after"), ("", "first")}
    assert layout.template.place == read_template(wins).place


def test_an_adapter_says_itself_where_its_vectors_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, found = tiny_models.subject("llama"), tried(monkeypatch, "{prompt}{bos}Q: {input}\\nA: ")
    layout = better_layout(subject, SoftPrompt(subject.embed_text("up red").clone(), place="first"), EXAMPLES)
    assert layout.text.removesuffix("{output}") == "Q: {input}\nA: " and {t.place for t in found} == {"first"}


@pytest.mark.parametrize("place", ["first", None])
def test_a_chat_turn_without_reasoning_is_tried_where_the_chat_template_knows_one(
    place: Place | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Qwen3's, whose answer begins with an empty thought then."""
    subject, found = tiny_models.subject("llama"), tried(monkeypatch)
    thought = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    turns = "{% for m in messages %}[{{ m.content }}]{% endfor %} says: "
    monkeypatch.setattr(subject.tokenizer, "chat_template", turns + thought, raising=False)
    better_layout(subject, SoftPrompt(subject.embed_text("up red").clone(), place=place), EXAMPLES)
    chats = {(t.output_prefix, t.place) for t in found if t.opening == "["}
    places = ("first", "after") if place is None else ("first",)
    assert chats == {(f"] says: {end}", one) for end in ("", "<think></think>") for one in places}


def test_outputs_of_several_lines_are_not_cut_by_the_layout_that_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    tried(monkeypatch, "{prompt}{bos}Q: {input}\\nA: ")
    examples = [*EXAMPLES * 2, Example("fish", "up\ndown")]
    layout = better_layout(subject, SoftPrompt(subject.embed_text("up red").clone(), place="first"), examples)
    assert layout.template.stops and "\n" not in layout.template.stops


def test_few_examples_and_those_that_do_not_fit_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    tried(monkeypatch, "{prompt}{bos}Q: {input}\\nA: ")
    prompt = SoftPrompt(subject.embed_text("up red").clone(), place="first")
    long = Example(" ".join(WORDS[:20] * 40), "up")
    assert better_layout(subject, prompt, [*EXAMPLES[:7], long]) is None
    assert better_layout(subject, prompt, [*EXAMPLES[:8], long]) is not None


def test_likelihoods_are_those_of_the_outputs_a_token_without_their_ends() -> None:
    subject = tiny_models.subject("llama")
    soft_prompt = SoftPrompt(subject.embed_text("up red").clone(), place="first")
    examples = [Example("red cat", "up"), Example("dog", "down red")]
    found = check_layout(subject, soft_prompt, examples)
    under = subject.for_prompts([soft_prompt])
    distributions = under.target_distributions([Query(soft_prompt, one.input, one.output) for one in examples])
    expected = [
        -row[token].item()
        for rows, one in zip(distributions, examples, strict=True)
        for row, token in zip(rows, under.encode_output(one.output)[:-1], strict=False)
    ]
    assert found.soft == pytest.approx(sum(expected) / len(expected), rel=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "roberta", "bloom"])
def test_outputs_are_scored_alike_on_subjects_of_every_kind(kind: str) -> None:
    """By its definition, one query at a time."""
    subject = tiny_models.subject(kind)
    soft_prompt = SoftPrompt(subject.embed_text("up red").clone(), place="first")
    examples = [Example("red cat", "up"), Example("dog", "down")]
    under = subject.for_prompts([soft_prompt])
    nats = []
    for one in examples:
        [rows] = under.target_distributions([Query(soft_prompt, one.input, one.output)])
        ids = under.encode_output(one.output)
        nats += [-row[i].item() for row, i in zip(rows, ids if subject.is_masked else ids[:-1], strict=False)]
    assert check_layout(subject, soft_prompt, examples).soft == pytest.approx(sum(nats) / len(nats), rel=1e-3)


@pytest.mark.parametrize("scale", ["included", "left-out"])
def test_outputs_tell_whether_vectors_include_the_scale_of_the_embeddings(scale: str) -> None:
    subject = tiny_models.subject("gemma2")
    vectors = subject.embed_text("up red").clone()
    known = SoftPrompt(vectors / (subject.embedding_scale if scale == "left-out" else 1.0), place="first")
    own, other = (replace(known, scale=one) for one in sorted((1.0, subject.embedding_scale), reverse=True))
    own, other = (own, other) if scale == "included" else (other, own)
    under = subject.for_prompts([known])

    def log_prob(prompt: SoftPrompt, word: str) -> float:
        score = under.target_distributions([Query(prompt, "red cat", word)])[0]
        return score[0][under.encode_output(word)[0]].item()

    word = max(("up", "down", "cat", "dog", "one"), key=lambda word: log_prob(own, word) - log_prob(other, word))
    assert likelier_scale(subject, known, [Example("red cat", word)]) == scale


@pytest.mark.parametrize(
    "text",
    ["{input} -> ", "Q: {input}\\nA: {output}", "{bos}{prompt}{input}\\n", "{prompt}{bos}{input} Label : ", "plain"],
)
def test_a_template_is_named_as_it_can_be_given(text: str) -> None:
    choice = read_template(text)
    template = replace(choice.template, place=choice.place or "after")
    again = read_template(as_string(template, None))
    assert replace(again.template, place=again.place or "after") == template


@pytest.mark.parametrize(("fits", "is_found"), [(True, False), (False, True)])
def test_a_layout_that_needs_no_soft_prompt_is_taken_only_where_the_present_one_fits_badly(
    fits: bool, is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the subject does the task by itself, likely outputs tell nothing of how the soft prompt was tuned."""
    subject = tiny_models.subject("llama")
    tried(monkeypatch)

    def nlls(_: Subject, prompt: object, templates: list[Template], examples: list[Example]) -> list[float]:
        return [(0.03 if prompt is None else 0.09) if t.input_prefix == "Q: " else 2.9 for t in templates]

    monkeypatch.setattr("soft2hard.translator.layout._nlls", nlls)
    known = LayoutCheck(0.35, 6.8, 32, 32) if fits else LayoutCheck(2.9, 3.0, 32, 0)
    prompt = SoftPrompt(subject.embed_text("up red").clone(), place="first")
    assert (better_layout(subject, prompt, EXAMPLES, known=known) is not None) == is_found


def test_a_layout_that_splits_outputs_otherwise_is_compared_by_the_same_number_of_tokens() -> None:
    """A token more, and certain, makes no output likelier."""
    made = tiny_training.llama_subject(vocab_size=400)
    tokenizer = tiny_tokenizers.tokenizer("gpt2", [" ".join(WORDS)] * 9)
    subject = Subject(made.model, tokenizer, name="s", template="{input} = {output}")
    examples = [Example("red cat", "1"), Example("dog", "2")]
    prompt = SoftPrompt(subject.embed_text("up red").clone(), place="first")
    assert len(subject.encode_output("1")) == 3 and subject.n_tokens_alone("1") == 1  # a space, the digit, the end
    summed = sum(
        -row[token].item()
        for one in examples
        for row, token in zip(
            subject.for_prompts([prompt]).target_distributions([Query(prompt, one.input, one.output)])[0],
            subject.encode_output(one.output)[:-1],
            strict=False,
        )
    )
    assert check_layout(subject, prompt, examples).soft == pytest.approx(summed / 2, rel=1e-4)


@pytest.mark.parametrize("place", ["first", "after"])
@pytest.mark.parametrize("lead", [" ", "<s>", "<s> "])
def test_a_template_with_outputs_as_texts_of_their_own_is_named_as_it_can_be_given(lead: str, place: Place) -> None:
    """No string says it: white space before {output} is all the output's own."""
    template = Template(input_prefix="Q: ", output_prefix=" Label : ", output_lead=lead, soft_separator="", place=place)
    unsaid, said = read_template(as_string(template, None)), read_template(as_string(template, place))
    assert replace(unsaid.template, place=unsaid.place) == template
    assert said.place is None and replace(said.template, place=place) == template


def test_labels_that_were_tokenised_as_texts_of_their_own_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tokenizer that begins texts with a space: whatever stands around the input, and in one's own template."""
    tokenizer = tiny_tokenizers.tokenizer("llama", [" ".join(WORDS)] * 3)
    made = tiny_training.llama_subject(vocab_size=len(tokenizer))
    subject, found = Subject(made.model, tokenizer, name="s"), tried(monkeypatch)
    asked = Subject(made.model, tokenizer, name="s", template="Read this: {input} Then say ")
    better_layout(asked, SoftPrompt(subject.embed_text("up red").clone(), place="first"), EXAMPLES)
    assert subject.own_beginnings == (("", " "), ("<s>", ""))
    for before, between in (("", " Label : "), ("Read this: ", " Then say ")):
        ways = {(t.output_prefix, t.output_lead) for t in found if t.input_prefix == before}
        assert ways >= {(between, ""), (between, " "), (f"{between}<s>", "")}


def test_what_was_tuned_on_labels_without_an_end_writes_them_all_the_same() -> None:
    """Its first words count, and that it goes on is seen."""
    subject = tiny_models.subject("llama")
    prompt = SoftPrompt(subject.embed_text("up red").clone(), place="first")
    under, inputs = subject.for_prompts([prompt]), [f"{a} {b}" for a in WORDS[:4] for b in WORDS[4:8]]
    written = under.generate_ids([Query(prompt, one) for one in inputs], 3)
    examples = [
        Example(i, subject.tokenizer.decode(ids[:1])) for i, ids in zip(inputs, written, strict=True) if len(ids) > 1
    ]
    assert len(examples) > 8, "this untrained subject hardly ends"
    found = check_layout(subject, prompt, examples)
    assert found.n_right == found.n == len(examples) and found.goes_on and found.n_ended == 0


def test_what_is_said_of_a_layout() -> None:
    assert not LayoutCheck(0.3, 3.0).fits_badly and not LayoutCheck(1.5, None).fits_badly
    assert LayoutCheck(2.5, 9.0).fits_badly and LayoutCheck(1.5, 1.6).fits_badly
    assert not LayoutCheck(0.0, 0.06).fits_badly, "the subject does the task by itself"
    assert LayoutCheck(0.3, None, 20, 17).is_often_wrong and not LayoutCheck(0.3, None, 20, 18).is_often_wrong
    assert LayoutCheck(0.3, None, 20, 15).fits_well and not LayoutCheck(0.3, None, 20, 14).fits_well
    assert LayoutCheck(0.0, 0.06).is_idle and not LayoutCheck(0.3, 3.0).is_idle and not LayoutCheck(0.3, None).is_idle
    assert LayoutCheck(0.1, None, 20, 18).is_certain and not LayoutCheck(0.3, None, 20, 20).is_certain
    assert LayoutCheck(0.6, None, 20, 18).fits_well and not LayoutCheck(0.6, None, 20, 17).fits_well
    assert (
        LayoutCheck(0.1, 3.0).fits_well and not LayoutCheck(0.3, 3.0).fits_well and not LayoutCheck(2.5, 9.0).fits_well
    )


def test_examples_that_do_not_fit_the_context_tell_nothing() -> None:
    short = tiny_training.llama_subject(max_position_embeddings=16)
    long = [Example(" ".join(WORDS[:20]), "up")]
    soft_prompt = SoftPrompt(short.embed_text("up red").clone(), place="first")
    assert check_layout(short, soft_prompt, long) is None and better_layout(short, soft_prompt, long) is None
