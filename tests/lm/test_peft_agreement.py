"""An adapter that PEFT made answers here what it answers under PEFT, whatever stands around the virtual tokens."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, PromptTuningInit, get_peft_model
from transformers import PreTrainedModel

from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models

ARCHITECTURES = [*tiny_models.CONFIGS, *tiny_models.ODD_HEADS, *tiny_models.OTHERS]
INPUTS = ["cat dog", "one two three four", "up", "red green left", "bird bird"]
TEXT = "Input : {input} Output : "
CHAT = (
    "{% for message in messages %}<s>big {{ message['content'] }} small{% endfor %}"
    "{% if add_generation_prompt %} Output :{% endif %}"
)
N_NEW = 8


def model_of(architecture: str) -> PreTrainedModel:
    """PEFT makes virtual tokens as wide as OPT's layers, so it cannot run an OPT with narrower embeddings."""
    return tiny_models.model(architecture, **({"word_embed_proj_dim": 16} if architecture == "opt" else {}))


def adapter(architecture: str, folder: Path) -> PeftModel:
    """Saved, with random virtual tokens of the size of tokens' own vectors."""
    model = model_of(architecture)
    kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    torch.manual_seed(3)
    tuned = get_peft_model(model, PromptTuningConfig(task_type=kind, num_virtual_tokens=4, base_model_name_or_path="x"))
    with torch.no_grad():
        for parameter in tuned.prompt_encoder.parameters():
            parameter.copy_(torch.randn_like(parameter))
    tuned.save_pretrained(str(folder))
    return PeftModel.from_pretrained(model_of(architecture), str(folder)).eval()


def under_peft(tuned: PeftModel, ids: list[int]) -> list[int]:
    """Greedy tokens up to EOS, as a user of PEFT gets them."""
    asked = torch.tensor([ids])
    mask = torch.ones_like(asked)
    written = tuned.generate(input_ids=asked, attention_mask=mask, max_new_tokens=N_NEW, do_sample=False)[0].tolist()
    new = (
        written[1:]
        if tuned.config.is_encoder_decoder
        else written[len(ids) :]
        if written[: len(ids)] == ids
        else written
    )
    return new[: new.index(2)] if 2 in new else new[:N_NEW]


def here(
    architecture: str, folder: Path, template: str, chat_template: str | None = None
) -> tuple[Subject, SoftPrompt]:
    tokenizer = tiny_models.tokenizer(architecture)
    tokenizer.chat_template = chat_template
    plain = Subject(model_of(architecture), tokenizer, name="tiny", template=template)
    soft_prompt = SoftPrompt.from_pretrained(folder)
    if plain.scorer.model.scale_has_moved:
        soft_prompt = replace(soft_prompt, scale=plain.embedding_scale)
    return plain.for_prompts([soft_prompt]), soft_prompt


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_answers_to_a_text_tokenised_as_pefts_users_do_are_the_same(tmp_path: Path, architecture: str) -> None:
    tuned = adapter(architecture, tmp_path)
    subject, soft_prompt = here(architecture, tmp_path, TEXT)
    assert subject.template.place == "first"
    expected = [under_peft(tuned, subject.tokenizer(TEXT.format(input=text))["input_ids"]) for text in INPUTS]
    found = subject.generate_ids([Query(soft_prompt, text) for text in INPUTS], N_NEW)
    assert found == expected
    assert len({tuple(row) for row in found}) > 1


@pytest.mark.parametrize("architecture", ["llama", "opt", "gpt2", "gemma3", "mistral"])
@torch.no_grad()
def test_answers_under_a_chat_template_are_the_same(tmp_path: Path, architecture: str) -> None:
    tuned = adapter(architecture, tmp_path)
    subject, soft_prompt = here(architecture, tmp_path, "chat", CHAT)
    turns = [[{"role": "user", "content": text}] for text in INPUTS]
    ids = [
        subject.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
        for turn in turns
    ]
    assert ids[0][0] == 1 and ids[0][1] != 1  # BOS once, from the template
    found = subject.generate_ids([Query(soft_prompt, text) for text in INPUTS], N_NEW)
    assert found == [under_peft(tuned, row) for row in ids]


@torch.no_grad()
def test_where_a_tokenizer_adds_bos_vectors_before_it_and_behind_it_answer_differently(tmp_path: Path) -> None:
    """So the place is no matter of taste, and is asked for where a file does not say it."""
    tuned = adapter("llama", tmp_path / "adapter")
    soft_prompt = SoftPrompt.from_pretrained(tmp_path / "adapter")
    bare = SoftPrompt(soft_prompt.embeddings)
    model, tokenizer = tiny_models.model("llama"), tiny_models.tokenizer("llama")
    answers = {}
    for place in ("{prompt}{bos}", "{bos}{prompt}"):
        subject = Subject(model, tokenizer, name="tiny", template=place + TEXT).for_prompts([bare])
        answers[place] = subject.generate_ids([Query(bare, text) for text in INPUTS], N_NEW)
    expected = [under_peft(tuned, tokenizer(TEXT.format(input=text))["input_ids"]) for text in INPUTS]
    assert answers["{prompt}{bos}"] == expected != answers["{bos}{prompt}"]
    with pytest.raises(UserError, match="does not say where its vectors stand.*plain:first"):
        Subject(model, tokenizer, name="tiny", template=TEXT).for_prompts([bare])


def test_a_recorded_template_that_the_one_asked_for_contradicts_is_refused() -> None:
    model, tokenizer = tiny_models.model("llama"), tiny_models.tokenizer("llama")
    plain = Subject(model, tokenizer, name="tiny")
    tuned = SoftPrompt(plain.embed_text("cat").clone(), template=plain.template)
    assert plain.for_prompts([tuned]).template == plain.template
    with pytest.raises(UserError, match="tuned under another template.*Leave --template out"):
        Subject(model, tokenizer, name="tiny", template=TEXT).for_prompts([tuned])
    other = replace(tuned, template=replace(plain.template, place="first"))
    with pytest.raises(UserError, match="different templates"):
        plain.for_prompts([tuned, other])


@torch.no_grad()
def test_an_adapter_written_here_answers_under_peft_as_its_readme_says(tmp_path: Path) -> None:
    model, tokenizer = tiny_models.model("llama"), tiny_models.tokenizer("llama")
    first = Subject(model, tokenizer, name="tiny", template="plain:first")
    vectors = torch.randn(3, first.d_model, generator=torch.Generator().manual_seed(5))
    soft_prompt = SoftPrompt(vectors, subject="tiny", template=replace(first.template, place="first"))
    soft_prompt.save_pretrained(tmp_path)
    readme = (tmp_path / "README.md").read_text()
    [line] = [line for line in readme.splitlines() if line.startswith("text = ")]
    tuned = PeftModel.from_pretrained(tiny_models.model("llama"), str(tmp_path)).eval()
    assert "add_special_tokens=True" in readme
    subject = first.for_prompts([SoftPrompt.from_pretrained(tmp_path)])
    for text in INPUTS:
        asked = eval(line.removeprefix("text = ").replace('"your input"', repr(text)))
        assert subject.generate_ids([Query(soft_prompt, text)], N_NEW) == [
            under_peft(tuned, tokenizer(asked)["input_ids"])
        ]


def test_virtual_tokens_that_begin_as_words_are_read_back_as_they_were_saved(tmp_path: Path) -> None:
    model, tokenizer = tiny_models.model("llama"), tiny_models.tokenizer("llama")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        prompt_tuning_init=PromptTuningInit.TEXT,
        prompt_tuning_init_text="cat dog up",
        num_virtual_tokens=3,
        tokenizer_name_or_path=str(tmp_path / "tokenizer"),
    )
    get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    ids = tokenizer("cat dog up")["input_ids"][:3]  # PEFT tokenises the text with BOS
    expected = tiny_models.model("llama").get_input_embeddings()(torch.tensor(ids))
    torch.testing.assert_close(SoftPrompt.from_pretrained(tmp_path / "adapter").embeddings, expected)
