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
from soft2hard.prompts.template import Template, read_template
from soft2hard.storage.names import embedded_path
from soft2hard.translator.layout import LayoutCheck, better_layout, check_layout, likelier_scale
from tests import tiny_models, tiny_training

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


@pytest.mark.parametrize("text", ["{input} A: {output}", "Read this: {input} Then say "])
def test_the_space_before_an_output_is_tried_on_the_other_side_of_any_template(text: str) -> None:
    """Of a template in words of one's own that none of the common ones resembles."""
    subject = tiny_models.subject("llama")
    asked = Subject(subject.model, subject.tokenizer, name="s", template=text)
    tried = []

    def nlls(subject: Subject, prompt: object, templates: list[Template], examples: object) -> list[float]:
        tried.extend(templates)
        return [1.0] * len(templates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soft2hard.translator.layout._nlls", nlls)
        better_layout(asked, SoftPrompt(subject.embed_text("up red").clone(), place="first"), [Example("cat", "up")])
    other = read_template(text.replace("{output}", "") if "{output}" in text else f"{text}{{output}}").template
    assert replace(other, place="first") in tried


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
def test_layouts_are_tried_on_subjects_of_every_kind(kind: str) -> None:
    subject = tiny_models.subject(kind)
    soft_prompt = SoftPrompt(subject.embed_text("up red").clone(), place="first")
    examples = [Example("red cat", "up"), Example("dog", "down")]
    better_layout(subject, soft_prompt, examples)  # an untrained model fits none, or one by chance
    assert check_layout(subject, soft_prompt, examples).soft > 0


def test_both_places_of_the_vectors_are_tried_where_nothing_says_which(tmp_path: Path) -> None:
    subject = tiny_models.subject("llama")
    bare = SoftPrompt(subject.embed_text("up red").clone())
    texts = ["red cat", "dog", "one two", "cat dog"]
    template = read_template("{prompt}{bos}Q: {input}\nA: {output}").template
    known = replace(bare, template=replace(template, place="first"))
    written = subject.for_prompts([known]).generate([Query(known, text) for text in texts], 4)
    examples = [Example(text, output) for text, output in zip(texts, written, strict=True) if output]
    found = better_layout(subject, bare, examples)
    assert found is None or found.text.startswith(("{prompt}{bos}", "{bos}{prompt}", "chat:"))


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


def test_what_is_said_of_a_layout() -> None:
    assert not LayoutCheck(0.3, 3.0).fits_badly and not LayoutCheck(1.5, None).fits_badly
    assert LayoutCheck(2.5, 9.0).fits_badly and LayoutCheck(1.5, 1.6).fits_badly
    assert LayoutCheck(0.3, None, 20, 17).is_often_wrong and not LayoutCheck(0.3, None, 20, 18).is_often_wrong
    assert LayoutCheck(0.3, None, 20, 18).fits_well and not LayoutCheck(0.3, None, 20, 17).fits_well
    assert (
        LayoutCheck(0.1, 3.0).fits_well and not LayoutCheck(0.3, 3.0).fits_well and not LayoutCheck(2.5, 9.0).fits_well
    )


def test_examples_that_do_not_fit_the_context_tell_nothing() -> None:
    short = tiny_training.llama_subject(max_position_embeddings=16)
    long = [Example(" ".join(WORDS[:20]), "up")]
    soft_prompt = SoftPrompt(short.embed_text("up red").clone(), place="first")
    assert check_layout(short, soft_prompt, long) is None and better_layout(short, soft_prompt, long) is None
