"""A translator knows its subject again in another rounding of its weights, and no other model."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import propose
from soft2hard.translator.model import Translator, is_rounding, read_rows
from soft2hard.translator.settings import Design, TranslateConfig
from soft2hard.translator.translate import translate
from tests import tiny_models
from tests.tiny_training import llama_subject

WORDS = tiny_models.WORDS[3:]
FINE, COARSE = 0.15, 1.0
"""Steps of a grid, where weights have a standard deviation of 0.3: the rows of the table keep a mean cosine of 0.99 and
of less than 0.9."""
DESIGNS = {
    "encoder-decoder": Design("encoder-decoder", instruction_tokens=16),
    "causal-lora": Design("causal-lora", lora_rank=2, instruction_tokens=16),
}
SAID = "but nearly its embeddings"


def llama(seed: int = 0, **changes: object) -> Subject:
    return llama_subject(seed, **{"max_position_embeddings": 128} | changes)


def rounded(subject: Subject, step: float) -> Subject:
    """Every weight put on a grid."""
    model = deepcopy(subject.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter / step).round() * step)
    return Subject(model, subject.tokenizer, name=f"in steps of {step}")


def cosine(subject: Subject, other: Subject) -> float:
    return float(torch.cosine_similarity(subject.embedding, other.embedding, dim=1).nan_to_num().mean())


def saved_subject(subject: Subject, folder: Path) -> Path:
    subject.model.save_pretrained(folder)
    subject.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=DESIGNS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An untrained translator of a subject that lies beside it."""
    subject = Subject.from_pretrained(saved_subject(llama(), tmp_path / "subject"))
    torch.manual_seed(0)
    Translator.for_subject(subject, DESIGNS[request.param]).save_pretrained(tmp_path / "translator")
    return tmp_path / "translator"


def soft(subject: Subject) -> SoftPrompt:
    return SoftPrompt(subject.embed_text("cat dog").clone(), subject.name, subject.fingerprint, {}, subject.template)


def test_the_grids_are_as_fine_and_as_coarse_as_these_tests_need_them() -> None:
    assert cosine(llama(), rounded(llama(), FINE)) > 0.985
    assert cosine(llama(), rounded(llama(), COARSE)) < 0.9
    assert rounded(llama(), FINE).fingerprint != llama().fingerprint


def test_another_rounding_of_the_subject_is_accepted_with_one_remark(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    translator, other = Translator.from_pretrained(saved), rounded(llama(), FINE)
    assert SAID not in capsys.readouterr().err
    with pytest.raises(UserError, match="another subject"):
        translator.check(soft(other))
    for _ in range(2):
        translator.bind(other)
        translator.check(soft(other))
        translator.check(soft(llama()))
    said = capsys.readouterr().err
    assert said.count(SAID) == 1 and f"'{other.name}'" in said and len(said.splitlines()) == 1
    assert propose(translator, [soft(other)], 2)[0]


def test_the_very_same_weights_need_no_remark(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Translator.from_pretrained(saved, subject=llama())
    assert SAID not in capsys.readouterr().err


OTHERS: dict[str, Callable[[], Subject]] = {
    "random": lambda: llama(seed=1),
    "coarse": lambda: rounded(llama(), COARSE),
    "narrower": lambda: llama(hidden_size=24),
    "fewer words": lambda: Subject(
        llama(vocab_size=tiny_models.VOCAB_SIZE - 1).model, tiny_models.tokenizer("llama"), name="short"
    ),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_any_other_model_is_refused_in_one_line(
    saved: Path, other: Callable[[], Subject], capsys: pytest.CaptureFixture[str]
) -> None:
    subject = other()
    for accept in (Translator.from_pretrained(saved).bind, lambda s: Translator.from_pretrained(saved, subject=s)):
        with pytest.raises(UserError, match="another subject") as refused:
            accept(subject)
        assert "\n" not in str(refused.value)
    assert SAID not in capsys.readouterr().err


def test_it_is_saved_and_read_back_with_its_rows(saved: Path, tmp_path: Path) -> None:
    rows = read_rows(saved)
    ids = rows["ids"].tolist()
    assert len(ids) == 64 and {0, tiny_models.VOCAB_SIZE - 1} <= set(ids)
    torch.testing.assert_close(rows["rows"].float(), llama().embedding[ids], atol=1e-3, rtol=1e-3)
    Translator.from_pretrained(saved).save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "subject_rows.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in rows.items())
    Translator.from_pretrained(tmp_path / "again", subject=rounded(llama(), FINE))


def test_one_that_kept_no_rows_knows_the_very_weights_alone(saved: Path) -> None:
    (saved / "subject_rows.safetensors").unlink()
    assert not is_rounding({}, llama())
    Translator.from_pretrained(saved, subject=llama())
    with pytest.raises(UserError, match="another subject"):
        Translator.from_pretrained(saved, subject=rounded(llama(), FINE))


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_soft_prompts_of_the_other_rounding_are_translated_and_verified_on_it(
    design: Design, capsys: pytest.CaptureFixture[str]
) -> None:
    translator, other = Translator.for_subject(llama(), design), rounded(llama(), FINE)
    inputs = [f"{a} {b}" for a in WORDS[:4] for b in WORDS[4:7]]
    found = translate(soft(other), translator, other, TranslateConfig(4, 6, 4, 0, max_new_tokens=3), inputs=inputs)
    assert found.judgement is not None and capsys.readouterr().err.count(SAID) == 1
    with pytest.raises(UserError):
        translate(soft(llama(seed=1)), translator, other, TranslateConfig(4, 6, 4, 0, max_new_tokens=3), inputs=inputs)


def test_a_causal_translator_writes_with_the_rounding_that_it_is_given_also_where_its_own_base_is_gone(
    tmp_path: Path,
) -> None:
    subject = Subject.from_pretrained(saved_subject(llama(), tmp_path / "subject"))
    Translator.for_subject(subject, DESIGNS["causal-lora"]).save_pretrained(tmp_path / "translator")
    (tmp_path / "subject").rename(tmp_path / "moved")
    other = rounded(subject, FINE)
    beside = Translator.from_pretrained(tmp_path / "translator", subject=other)
    assert beside.model.lm.get_input_embeddings().weight.data_ptr() == other.embedding.data_ptr()
    of_folder = saved_subject(other, tmp_path / "other")
    by_path = Translator.from_pretrained(tmp_path / "translator", base=str(of_folder))
    assert torch.equal(by_path.model.lm.get_input_embeddings().weight, other.embedding)
    for name in (
        saved_subject(llama(seed=1), tmp_path / "random"),
        saved_subject(rounded(subject, COARSE), tmp_path / "c"),
    ):
        with pytest.raises(UserError, match="writes with another model"):
            Translator.from_pretrained(tmp_path / "translator", base=str(name))


def test_a_causal_translator_on_another_base_than_its_subject_is_strict_about_the_base(tmp_path: Path) -> None:
    """The rows are the subject's, and say nothing of another base."""
    base = saved_subject(llama(seed=3), tmp_path / "base")
    design = replace(DESIGNS["causal-lora"], base=str(base))
    Translator.for_subject(llama(), design).save_pretrained(tmp_path / "translator")
    for folder in (saved_subject(rounded(llama(seed=3), FINE), tmp_path / "a"), saved_subject(llama(), tmp_path / "b")):
        with pytest.raises(UserError, match="writes with another model"):
            Translator.from_pretrained(tmp_path / "translator", base=str(folder))
