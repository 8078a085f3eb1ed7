"""PEFT adapters: what PEFT saves is read, what is written PEFT runs as [soft prompt; embeddings]."""

import json
import os

import pytest
import torch
from peft import (
    CPTConfig,
    IA3Config,
    LoraConfig,
    MultitaskPromptTuningConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from soft2hard.cli.common import subject_of
from soft2hard.errors import UserError
from soft2hard.lm.subject import Query
from soft2hard.prompts.files import find_soft_prompts
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models

WIDTH = 16
IDS = torch.tensor([[5, 6, 7, 8], [9, 4, 3, 10]])


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes)).eval()


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(vocab_size=20, d_model=WIDTH, d_kv=4, d_ff=24, num_layers=2, num_heads=4)
    return T5ForConditionalGeneration(config).eval()


def soft_prompt(n_tokens: int = 3) -> SoftPrompt:
    values = torch.randn(n_tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    return SoftPrompt(values, subject="tiny", fingerprint="ab12", provenance={"task": "reverse"})


def before_embeddings(model, rows: torch.Tensor) -> torch.Tensor:
    """[rows; embeddings of IDS], by hand."""
    return torch.cat([rows.expand(len(IDS), -1, -1), model.get_input_embeddings()(IDS)], dim=1)


# Written for PEFT


@torch.no_grad()
def test_peft_runs_a_written_adapter_as_soft_prompt_before_embeddings(tmp_path):
    prompt, model = soft_prompt(), llama()
    expected = model(inputs_embeds=before_embeddings(model, prompt.embeddings)).logits
    prompt.save_pretrained(tmp_path / "adapter", base_model="tiny")
    actual = PeftModel.from_pretrained(model, str(tmp_path / "adapter"))(
        input_ids=IDS, attention_mask=torch.ones_like(IDS)
    ).logits
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_peft_runs_a_written_adapter_on_the_encoder_of_t5(tmp_path):
    prompt, model = soft_prompt(), t5()
    decoder_ids = torch.tensor([[0, 3], [0, 4]])
    expected = model(inputs_embeds=before_embeddings(model, prompt.embeddings), decoder_input_ids=decoder_ids).logits
    prompt.save_pretrained(tmp_path / "adapter", base_model="tiny", task_type="SEQ_2_SEQ_LM")
    actual = PeftModel.from_pretrained(model, str(tmp_path / "adapter"))(
        input_ids=IDS, attention_mask=torch.ones_like(IDS), decoder_input_ids=decoder_ids
    ).logits
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_bos_embedding_comes_first_under_peft(tmp_path):
    prompt, model = soft_prompt(), llama()
    bos = model.get_input_embeddings().weight[1]
    rows = torch.cat([bos[None], prompt.embeddings])
    expected = model(inputs_embeds=before_embeddings(model, rows)).logits
    prompt.save_pretrained(tmp_path / "adapter", base_model="tiny", bos_embedding=bos)
    actual = PeftModel.from_pretrained(model, str(tmp_path / "adapter"))(
        input_ids=IDS, attention_mask=torch.ones_like(IDS)
    ).logits
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "architecture", ["llama", "mistral", "gemma", "gemma3", "qwen3", "gpt2", "opt", "bloom", "phi", "t5"]
)
@torch.no_grad()
def test_a_written_adapter_gives_the_log_probabilities_under_peft_that_the_subject_gives(tmp_path, architecture):
    """With BOS (Llama, Mistral, Gemma, OPT) as one more virtual token, and without; T5 in its encoder."""
    subject = tiny_models.subject(architecture)
    values = torch.randn(3, subject.d_model, generator=torch.Generator().manual_seed(2))
    prompt = SoftPrompt(values, scale=subject.embedding_scale)
    bos = subject.prompt_embeddings(None)
    prompt.save_pretrained(
        tmp_path / "adapter",
        base_model="tiny",
        bos_embedding=bos[0] if len(bos) else None,
        task_type="SEQ_2_SEQ_LM" if subject.is_encoder_decoder else "CAUSAL_LM",
    )
    adapted = PeftModel.from_pretrained(tiny_models.model(architecture), str(tmp_path / "adapter")).eval()
    body, output = subject.encode_input("cat dog", kind="soft").body, subject.encode_output("red green up")
    if subject.is_encoder_decoder:
        ids, more = torch.tensor([body]), {"decoder_input_ids": torch.tensor([[0, *output[:-1]]])}
    else:
        ids, more = torch.tensor([body + output[:-1]]), {}
    logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0, -len(output) :]
    (expected,) = subject.target_distributions([Query(prompt, "cat dog", "red green up")])
    torch.testing.assert_close(logits.log_softmax(-1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_bos", [False, True])
@pytest.mark.parametrize("task_type", ["CAUSAL_LM", "SEQ_2_SEQ_LM"])
def test_written_adapter_reads_back_exactly_and_without_bos(tmp_path, with_bos, task_type):
    prompt = soft_prompt()
    bos = torch.ones(WIDTH) if with_bos else None
    prompt.save_pretrained(tmp_path / "adapter", base_model="elsewhere", bos_embedding=bos, task_type=task_type)
    loaded = SoftPrompt.from_pretrained(tmp_path / "adapter")
    assert torch.equal(loaded.embeddings, prompt.embeddings)
    assert (loaded.subject, loaded.fingerprint) == ("tiny", "ab12")
    assert loaded.provenance == {"task": "reverse"}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "elsewhere"
    assert config["num_virtual_tokens"] == 3 + with_bos


def test_bos_embedding_of_another_width_is_refused(tmp_path):
    with pytest.raises(UserError, match="width 5, the soft prompt 16"):
        soft_prompt().save_pretrained(tmp_path / "adapter", base_model="tiny", bos_embedding=torch.ones(5))
    assert os.listdir(tmp_path) == []


def test_an_old_adapter_is_replaced_and_other_folders_are_not(tmp_path):
    soft_prompt(5).save_pretrained(tmp_path / "adapter", base_model="tiny")
    soft_prompt(2).save_pretrained(tmp_path / "adapter", base_model="tiny")
    assert SoftPrompt.from_pretrained(tmp_path / "adapter").n_tokens == 2
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="the folder is not empty"):
        soft_prompt().save_pretrained(tmp_path, base_model="tiny")
    assert sorted(os.listdir(tmp_path)) == ["adapter", "thesis.tex"]


# Saved by PEFT


def save_with_peft(folder, config, model=None):
    """Save a random adapter as PEFT does after training; return the PEFT model."""
    model = llama() if model is None else model
    model.name_or_path = "org/tiny"
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(str(folder))
    return adapted


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
        CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[5, 7, 9], cpt_mask=[1, 2, 3], cpt_tokens_type_mask=[1, 2, 3]),
    ],
    ids=["prompt-tuning", "p-tuning", "cpt"],
)
@torch.no_grad()
def test_adapter_saved_by_peft_gives_the_vectors_peft_runs(tmp_path, config):
    adapted = save_with_peft(tmp_path, config).eval()
    if isinstance(config, CPTConfig):  # tuned a little
        adapted.prompt_encoder["default"].delta_embedding.weight += 0.01
        adapted.save_pretrained(str(tmp_path))
    loaded = SoftPrompt.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.embeddings, adapted.get_prompt(batch_size=1)[0])
    assert loaded.subject == "org/tiny" and loaded.fingerprint is None
    assert loaded.provenance["source"] == str(tmp_path)
    assert loaded.provenance["source_format"] == f"peft {config.peft_type.value}"
    assert loaded.provenance["task_type"] == "CAUSAL_LM"


@torch.no_grad()
def test_of_the_two_halves_peft_saves_for_t5_the_encoder_s_is_read(tmp_path):
    model = t5()
    adapted = save_with_peft(tmp_path, PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3), model)
    assert load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"].shape == (6, WIDTH)
    loaded = SoftPrompt.from_pretrained(tmp_path)
    decoder_ids = torch.tensor([[0, 3], [0, 4]])
    under_peft = adapted.eval()(
        input_ids=IDS, attention_mask=torch.ones_like(IDS), decoder_input_ids=decoder_ids
    ).logits
    by_hand = adapted.get_base_model()(
        inputs_embeds=before_embeddings(model, loaded.embeddings), decoder_input_ids=decoder_ids
    ).logits
    assert loaded.n_tokens == 3
    torch.testing.assert_close(under_peft, by_hand, rtol=1e-5, atol=1e-6)


def test_adapter_with_bin_weights_is_read(tmp_path):
    save_with_peft(tmp_path, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    expected = load_file(tmp_path / "adapter_model.safetensors")
    torch.save(expected, tmp_path / "adapter_model.bin")
    os.remove(tmp_path / "adapter_model.safetensors")
    assert torch.equal(SoftPrompt.from_pretrained(tmp_path).embeddings, expected["prompt_embeddings"])


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_of_an_adapter_stands_for_its_folder(tmp_path, name):
    save_with_peft(tmp_path, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert SoftPrompt.from_pretrained(tmp_path / name).subject == "org/tiny"


def test_a_relative_base_is_found_from_above_the_adapter_and_said_or_else_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = tmp_path / "project" / "adapters" / "birds"
    save_with_peft(made, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert subject_of([SoftPrompt.from_pretrained(made)], None) == "org/tiny"
    assert capsys.readouterr().err == ""
    llama().save_pretrained(tmp_path / "project" / "org" / "tiny")
    found = subject_of([SoftPrompt.from_pretrained(made)], None)
    assert os.path.samefile(found, tmp_path / "project" / "org" / "tiny")
    assert "'org/tiny'" in (said := capsys.readouterr().err) and found in said


@pytest.mark.parametrize("base", ["x" * 300, "org/ti\0ny"], ids=["too long", "with a zero byte"])
def test_a_base_that_cannot_be_a_path_is_kept_as_it_is(tmp_path, base):
    save_with_peft(tmp_path, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert SoftPrompt.from_pretrained(tmp_path).subject == base


def test_adapters_in_a_folder_are_found(tmp_path):
    soft_prompt().save_pretrained(tmp_path / "b", base_model="tiny")
    soft_prompt().save_pretrained(tmp_path / "a", base_model="tiny")
    assert find_soft_prompts([tmp_path]) == [tmp_path / "a", tmp_path / "b"]


# Bad adapters


def refusal(path) -> str:
    """The message of the UserError that loading `path` must raise."""
    with pytest.raises(UserError) as caught:
        SoftPrompt.from_pretrained(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert caught.value.problem and caught.value.remedy
    return message


@pytest.mark.parametrize(
    ("config", "kind", "remedy"),
    [
        (LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]), "a LoRA adapter", "Tune a soft prompt"),
        (
            IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj"], feedforward_modules=[]),
            "a IA3 adapter",
            "Tune a soft prompt",
        ),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "a prefix-tuning adapter", "every layer"),
        (
            MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, num_tasks=2),
            "a multitask prompt-tuning adapter",
            "get_prompt",
        ),
    ],
    ids=["lora", "ia3", "prefix", "multitask"],
)
def test_adapter_of_another_kind_is_named(tmp_path, config, kind, remedy):
    save_with_peft(tmp_path, config)
    message = refusal(tmp_path)
    assert kind in message and remedy in message


def adapter(folder, *, tensors=None, **changes) -> None:
    """A good adapter of 3 tokens with some of its config, or all its tensors, replaced."""
    soft_prompt().save_pretrained(folder, base_model="tiny")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if tensors is not None:
        save_file(tensors, folder / "adapter_model.safetensors")


def test_unchanged_adapter_is_accepted(tmp_path):
    adapter(tmp_path / "a")
    assert SoftPrompt.from_pretrained(tmp_path / "a").n_tokens == 3


def test_folder_without_config(tmp_path):
    assert "has no adapter_config.json" in refusal(tmp_path)


def test_adapter_without_weights(tmp_path):
    adapter(tmp_path / "a")
    os.remove(tmp_path / "a" / "adapter_model.safetensors")
    assert "neither adapter_model.safetensors nor adapter_model.bin" in refusal(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00", "[" * 100_000])
def test_config_that_is_no_json_object(tmp_path, text):
    adapter(tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in refusal(tmp_path / "a")


def test_config_that_is_no_text(tmp_path):
    adapter(tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_bytes(b"\xff\xfe\x00")
    assert "adapter_config.json" in refusal(tmp_path / "a")


@pytest.mark.parametrize("kind", [None, 3])
def test_config_without_a_kind(tmp_path, kind):
    adapter(tmp_path / "a", peft_type=kind)
    assert "does not say what kind of adapter" in refusal(tmp_path / "a")


def test_config_whose_token_count_disagrees_with_the_tensor(tmp_path):
    adapter(tmp_path / "a", num_virtual_tokens=4)
    message = refusal(tmp_path / "a")
    assert "says 4 virtual tokens" in message and "shape (3, 16)" in message and "num_virtual_tokens" in message


def test_config_whose_width_disagrees_with_the_tensor(tmp_path):
    adapter(tmp_path / "a", token_dim=8)
    assert "of width 8" in refusal(tmp_path / "a")


@pytest.mark.parametrize("count", ["three", 0, -1, 2.5])
def test_config_whose_token_count_is_no_count(tmp_path, count):
    adapter(tmp_path / "a", num_virtual_tokens=count)
    assert "not a positive whole number" in refusal(tmp_path / "a")


def test_weights_without_the_computed_prompt(tmp_path):
    adapter(tmp_path / "a", tensors={"embedding.weight": torch.ones(3, WIDTH), "mlp_head.0.bias": torch.ones(4)})
    message = refusal(tmp_path / "a")
    assert "no tensor prompt_embeddings" in message and "embedding.weight" in message and "save_pretrained" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.full((3, WIDTH), float("nan")), "NaN or infinite"),
        (torch.ones(3, WIDTH, dtype=torch.int64), "int64 values"),
        (torch.ones(WIDTH), "shape (16,)"),
        (torch.ones(0, WIDTH), "empty: its shape is (0, 16)"),
    ],
)
def test_weights_that_are_no_finite_matrix(tmp_path, values, message):
    adapter(tmp_path / "a", tensors={"prompt_embeddings": values})
    assert message in refusal(tmp_path / "a")


def test_weights_cut_short(tmp_path):
    adapter(tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert "cut short" in refusal(tmp_path / "a")


def test_planted_code_in_bin_weights_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'mark'}",))

    adapter(tmp_path / "a")
    os.remove(tmp_path / "a" / "adapter_model.safetensors")
    torch.save({"prompt_embeddings": torch.ones(3, WIDTH), "x": Payload()}, tmp_path / "a" / "adapter_model.bin")
    assert "could run code when read" in refusal(tmp_path / "a")
    assert not (tmp_path / "mark").exists()


# A PEFT model in memory


@pytest.mark.parametrize("kind", ["prompt tuning", "p-tuning"])
@pytest.mark.parametrize("make", [llama, t5])
@torch.no_grad()
def test_the_soft_prompt_of_a_peft_model_is_the_one_that_it_saves(tmp_path, make, kind):
    task_type = "SEQ_2_SEQ_LM" if make is t5 else "CAUSAL_LM"
    config = {
        "prompt tuning": PromptTuningConfig(task_type=task_type, num_virtual_tokens=4),
        "p-tuning": PromptEncoderConfig(task_type=task_type, num_virtual_tokens=4, encoder_hidden_size=8),
    }[kind]
    model = get_peft_model(make(), config)
    model.save_pretrained(str(tmp_path / "adapter"))
    found, saved = SoftPrompt.from_peft(model), SoftPrompt.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(found.embeddings, saved.embeddings)
    assert found.n_tokens == 4


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_p_tuning_that_was_read_back_has_the_vectors_that_were_saved(tmp_path, kind):
    config = PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=8, encoder_reparameterization_type=kind
    )
    base = llama()
    get_peft_model(base, config).save_pretrained(str(tmp_path / "adapter"))
    found = SoftPrompt.from_peft(PeftModel.from_pretrained(llama(), str(tmp_path / "adapter")))
    torch.testing.assert_close(found.embeddings, SoftPrompt.from_pretrained(tmp_path / "adapter").embeddings)


def test_a_peft_model_without_a_soft_prompt_is_refused():
    model = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    with pytest.raises(UserError, match="LoRA adapter"):
        SoftPrompt.from_peft(model)


def test_a_soft_prompt_that_names_no_subject_is_saved_for_one_that_is_named(tmp_path):
    prompt = SoftPrompt(torch.randn(2, WIDTH))
    with pytest.raises(UserError, match="base_model"):
        prompt.save_pretrained(tmp_path / "adapter")
    prompt.save_pretrained(tmp_path / "adapter", base_model="tiny")
    assert SoftPrompt.from_pretrained(tmp_path / "adapter").n_tokens == 2


# Adapters that are more, or something else, than a soft prompt of a language model


def test_an_adapter_that_holds_trained_weights_beside_its_soft_prompt_is_refused(tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, modules_to_save=["lm_head"])
    get_peft_model(llama(), config).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="more than a soft prompt: .*lm_head.*modules_to_save"):
        SoftPrompt.from_pretrained(tmp_path)


def test_tables_that_peft_saves_as_where_the_vocabulary_was_resized_are_left_aside_and_named(tmp_path):
    """As where a padding token was added, which many trainings do."""
    model = llama()
    adapted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=True)
    tables = set(load_file(tmp_path / "adapter_model.safetensors")) - {"prompt_embeddings"}
    assert tables
    assert set(SoftPrompt.from_pretrained(tmp_path).provenance["left_aside"].split(", ")) == tables
    expected = adapted.get_prompt(batch_size=1)[0].detach()
    torch.testing.assert_close(SoftPrompt.from_pretrained(tmp_path).embeddings, expected)


def test_a_revision_survives_in_memory_and_when_the_adapter_is_saved_again(tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, revision="v2")
    model = llama()
    model.name_or_path = "org/tiny"
    prompt = SoftPrompt.from_peft(get_peft_model(model, config))
    assert prompt.subject == "org/tiny@v2"
    prompt.save_pretrained(tmp_path / "again", base_model=prompt.subject)
    saved = PeftConfig.from_pretrained(str(tmp_path / "again"))
    assert (saved.base_model_name_or_path, saved.revision) == ("org/tiny", "v2")
    assert "AutoTokenizer.from_pretrained('org/tiny', revision='v2')" in (tmp_path / "again" / "README.md").read_text()


def test_only_tables_of_words_are_left_aside(tmp_path):
    tensors = {"prompt_embeddings": torch.ones(3, 16), "base_model.model.lm_head.bias": torch.ones(4)}
    adapter(tmp_path / "a", tensors=tensors)
    assert SoftPrompt.from_pretrained(tmp_path / "a").provenance["left_aside"] == "base_model.model.lm_head.bias"
    for other in ("layer.attention.output.weight", "my_shared.weight", "prompt_lm_head.weight"):
        adapter(tmp_path / "a", tensors=tensors | {other: torch.ones(2, 2)})
        assert f"more than a soft prompt: {other}" in refusal(tmp_path / "a")


@pytest.mark.parametrize(("revision", "named"), [("v2", "org/tiny@v2"), ("main", "org/tiny"), (None, "org/tiny")])
def test_the_revision_of_the_base_model_is_part_of_its_name(tmp_path, revision, named):
    adapter(tmp_path / "a", base_model_name_or_path="org/tiny", revision=revision)
    path = tmp_path / "a" / "adapter_model.safetensors"
    save_file({"prompt_embeddings": torch.ones(3, 16)}, path)  # as PEFT writes it, without our metadata
    assert SoftPrompt.from_pretrained(tmp_path / "a").subject == named


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION", "QUESTION_ANS"])
def test_an_adapter_for_no_language_modelling_is_refused_by_name(tmp_path, task_type):
    soft_prompt().save_pretrained(tmp_path / "adapter", base_model="tiny")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": task_type}))
    with pytest.raises(UserError, match=f"adapter for {task_type}.*CAUSAL_LM"):
        SoftPrompt.from_pretrained(tmp_path / "adapter")


def test_further_adapters_within_the_folder_are_named_and_checkpoints_are_none(tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(llama(), config)
    model.add_adapter("second", config)
    model.save_pretrained(str(tmp_path))
    get_peft_model(llama(), config).save_pretrained(str(tmp_path / "checkpoint-10"))
    assert SoftPrompt.from_pretrained(tmp_path).provenance["sub_adapters"] == "second"


def test_an_adapter_gathered_from_zero_3_too_late_is_empty_and_says_so(tmp_path):
    soft_prompt().save_pretrained(tmp_path / "adapter", base_model="tiny")
    save_file({"prompt_embeddings": torch.zeros(0)}, str(tmp_path / "adapter" / "adapter_model.safetensors"))
    with pytest.raises(UserError, match="is empty.*ZeRO-3"):
        SoftPrompt.from_pretrained(tmp_path / "adapter")
