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
from soft2hard.translator.layout_check import LayoutCheck, check_layout, likelier_scale, with_space_elsewhere
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
    assert not own.fits_badly and not own.space_is_elsewhere and own.soft < 0.1
    assert own.soft < elsewhere.soft
    assert own.n_right > 0.9 * own.n and not own.is_often_wrong
    nonsense = replace(unknown, embeddings=torch.zeros_like(unknown.embeddings))
    assert check_layout(other, nonsense, examples).fits_badly


def test_likelihoods_are_those_of_the_outputs_a_token_on_both_sides_of_the_space() -> None:
    subject = tiny_models.subject("llama")
    soft_prompt = SoftPrompt(subject.embed_text("up red").clone(), place="first")
    examples = [Example("red cat", "up"), Example("dog", "down red")]
    found = check_layout(subject, soft_prompt, examples)
    for template, value in ((subject.template, found.soft), (with_space_elsewhere(subject.template), found.other)):
        template = replace(template, place="first")
        under, prompt = subject.with_template(template), replace(soft_prompt, template=template)
        scores = under.target_scores([Query(prompt, one.input, one.output) for one in examples])
        expected = -sum(s.log_likelihood for s in scores) / sum(s.n_tokens for s in scores)
        assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", ["included", "left-out"])
def test_outputs_tell_whether_vectors_include_the_scale_of_the_embeddings(scale: str) -> None:
    subject = tiny_models.subject("gemma2")
    vectors = subject.embed_text("up red").clone()
    known = SoftPrompt(vectors / (subject.embedding_scale if scale == "left-out" else 1.0), place="first")
    own = replace(known, scale=1.0 if scale == "left-out" else subject.embedding_scale)
    texts = ["red cat", "dog", "one two", "cat dog"]
    written = subject.for_prompts([own]).generate([Query(own, text) for text in texts], 4)
    examples = [Example(text, output) for text, output in zip(texts, written, strict=True)]
    assert likelier_scale(subject, known, examples) == scale


def test_the_space_goes_to_the_other_side_and_back() -> None:
    written, read = (read_template(text).template for text in ("{input} A: {output}", "{input} A: "))
    assert with_space_elsewhere(written) == read and with_space_elsewhere(read) == written
    assert with_space_elsewhere(read_template("{input} A:").template) is None
    assert with_space_elsewhere(Template(input_prefix="", input_first=True)) is None


def test_what_is_said_of_a_layout() -> None:
    assert LayoutCheck(0.3, 3.0, 1.0).fits_badly is LayoutCheck(0.3, 3.0, 1.0).space_is_elsewhere is False
    assert LayoutCheck(2.5, 9.0, None).fits_badly and LayoutCheck(1.5, 1.6, None).fits_badly
    assert not LayoutCheck(1.5, None, None).fits_badly
    assert (
        LayoutCheck(0.3, None, None, 20, 17).is_often_wrong and not LayoutCheck(0.3, None, None, 20, 18).is_often_wrong
    )
    assert LayoutCheck(1.5, 3.0, 0.4).space_is_elsewhere


def test_examples_that_do_not_fit_the_context_tell_nothing() -> None:
    short = tiny_training.llama_subject(max_position_embeddings=16)
    long = [Example(" ".join(WORDS[:20]), "up")]
    assert check_layout(short, SoftPrompt(short.embed_text("up red").clone(), place="first"), long) is None
