"""A translator survives saving, refuses what is not its own, and starts from what its subject knows."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from soft2hard.errors import UserError
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.encoder_decoder import can_warm_start, seq2seq_from_causal
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design
from tests import tiny_models
from tests.tiny_training import llama_subject

KINDS = ["untied llama", "tied llama", "gpt2", "base"]


def base_checkpoint(folder: Path) -> str:
    """A saved T5 that is wider than the subjects, with a tokenizer of its own."""
    ids = {"vocab_size": tiny_models.VOCAB_SIZE, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(**ids, d_model=24, d_kv=6, d_ff=32, num_layers=1, num_heads=4)).save_pretrained(
        folder
    )
    tiny_models.tokenizer("t5").save_pretrained(folder)
    return str(folder)


def make(kind: str, folder: Path) -> Translator:
    torch.manual_seed(0)
    if kind == "gpt2":
        return Translator.for_subject(tiny_models.subject("gpt2"), Design("encoder-decoder"))
    if kind == "base":
        return Translator.for_subject(tiny_models.subject("llama"), Design(base=base_checkpoint(folder / "base")))
    return Translator.for_subject(llama_subject(tie_word_embeddings=kind == "tied llama"))


@pytest.fixture(params=KINDS)
def translator(request: pytest.FixtureRequest, tmp_path: Path) -> Translator:
    return make(request.param, tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translators") / "saved"
    make("untied llama", folder).save_pretrained(folder)
    return folder


def logits(translator: Translator) -> Tensor:
    """For soft prompts of two lengths and some labels."""
    generator = torch.Generator().manual_seed(1)
    prompts = [SoftPrompt(torch.randn(n, translator.card.d_subject, generator=generator)) for n in (2, 4)]
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])
    with torch.no_grad():
        return translator.model.eval()(*translator.encode_batch(prompts), labels=labels).logits


def stored(path: Path) -> dict[str, torch.dtype]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 - not a dict


def test_saved_and_loaded_it_gives_the_same_logits(translator: Translator, tmp_path: Path) -> None:
    for parameter in translator.model.parameters():  # as if trained: nothing is left where it started
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    translator.card = replace(translator.card, training={"loss": 0.5})
    translator.save_pretrained(tmp_path / "saved")
    loaded = Translator.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(loaded), logits(translator), rtol=1e-5, atol=1e-5)
    assert loaded.card == translator.card
    assert loaded.tokenizer.get_vocab() == translator.tokenizer.get_vocab()


def test_saved_in_bfloat16_it_is_loaded_in_float32_and_gives_nearly_the_same(
    translator: Translator, tmp_path: Path
) -> None:
    translator.save_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert set(stored(tmp_path / "saved" / "model.safetensors").values()) == {torch.bfloat16}
    loaded = Translator.from_pretrained(tmp_path / "saved")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    expected, found = logits(translator), logits(loaded)
    assert (found - expected).norm() < 0.03 * expected.norm()
    assert not torch.equal(found, expected)


def test_it_replaces_a_translator_and_leaves_a_folder_of_other_files_alone(
    translator: Translator, tmp_path: Path
) -> None:
    notes = tmp_path / "mine" / "notes.txt"
    notes.parent.mkdir()
    notes.touch()
    with pytest.raises(UserError, match="not empty"):
        translator.save_pretrained(notes.parent)
    assert list(notes.parent.iterdir()) == [notes]
    for training in ({"loss": 0.5}, {"loss": 0.4}):
        translator.card = replace(translator.card, training=training)
        translator.save_pretrained(tmp_path / "saved")
    assert Translator.from_pretrained(tmp_path / "saved").card.training == {"loss": 0.4}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_each_weight_is_stored_once(translator: Translator, tmp_path: Path, dtype: torch.dtype | None) -> None:
    translator.save_pretrained(tmp_path / "saved", dtype=dtype)
    distinct = list(translator.model.seq2seq.parameters())  # parameters() leaves out repetitions
    assert len(stored(tmp_path / "saved" / "model.safetensors")) == len(distinct)


def test_the_tokenizer_is_stored_in_one_line_and_splits_texts_as_before(translator: Translator, tmp_path: Path) -> None:
    translator.save_pretrained(tmp_path / "saved")
    assert "\n" not in (tmp_path / "saved" / "tokenizer.json").read_text(encoding="utf-8").strip()
    again, text = Translator.from_pretrained(tmp_path / "saved").tokenizer, "Answer yes, 12 émigrés said."
    assert again(text)["input_ids"] == translator.tokenizer(text)["input_ids"]


def test_its_state_names_each_weight_once_and_restores_all(translator: Translator) -> None:
    state = {name: tensor.clone() for name, tensor in translator.model.state_dict().items()}
    assert len({t.data_ptr() for t in translator.model.state_dict().values()}) == len(state)
    before = logits(translator)
    for parameter in translator.model.parameters():
        parameter.data.zero_()
    translator.model.load_state_dict(state)
    torch.testing.assert_close(logits(translator), before)


def refused(error: pytest.ExceptionInfo) -> str:
    """The message, which is one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_soft_prompt_of_another_width_is_refused(saved: Path) -> None:
    translator = Translator.from_pretrained(saved)
    with pytest.raises(UserError, match="17 wide.*reads 16") as error:
        translator.encode_batch([SoftPrompt(torch.zeros(2, 17))])
    assert "llama-0" in refused(error)


def test_a_soft_prompt_and_a_subject_of_another_model_are_refused(saved: Path) -> None:
    translator, own, other = Translator.from_pretrained(saved), llama_subject(), llama_subject(seed=1)
    translator.bind(own)
    translator.check(SoftPrompt(torch.zeros(2, 16), fingerprint=own.fingerprint))
    with pytest.raises(UserError, match="another subject") as error:
        translator.bind(other)
    assert "llama-0" in refused(error)
    with pytest.raises(UserError, match="another subject") as error:
        translator.check(SoftPrompt(torch.zeros(2, 16), fingerprint=other.fingerprint))
    assert "llama-0" in refused(error)


@pytest.mark.parametrize("damage", ["truncated", "removed", "nonsense"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "reader.safetensors", "config.json", "tokenizer.json", "soft2hard.json"]
)
def test_a_damaged_folder_is_refused(saved: Path, tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "removed":
        (folder / name).write_bytes(content[: len(content) // 2] if damage == "truncated" else b"\xff[7")
    with pytest.raises(UserError) as error:
        Translator.from_pretrained(folder)
    assert str(folder) in refused(error)


@pytest.mark.parametrize("card", ["[]", "7", "{}", '{"schema_version": 1}', '{"schema_version": "one"}'])
def test_a_card_without_the_facts_is_refused(saved: Path, tmp_path: Path, card: str) -> None:
    shutil.copytree(saved, tmp_path / "damaged")
    (tmp_path / "damaged" / "soft2hard.json").write_text(card)
    with pytest.raises(UserError, match="damaged") as error:
        Translator.from_pretrained(tmp_path / "damaged")
    refused(error)


def test_a_translator_that_lacks_weights_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "damaged")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    with pytest.raises(UserError, match="missing"):
        Translator.from_pretrained(folder)


def test_a_later_schema_is_refused_and_an_update_advised(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "later")
    card = json.loads((folder / "soft2hard.json").read_text())
    (folder / "soft2hard.json").write_text(json.dumps(card | {"schema_version": card["schema_version"] + 1}))
    with pytest.raises(UserError, match="later soft2hard.*Update") as error:
        Translator.from_pretrained(folder)
    refused(error)


def test_a_folder_that_is_no_translator_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="not a translator"):
            Translator.from_pretrained(folder)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"head_dim": 6}, {"pad_token_id": None}, {"eos_token_id": [2, 3]}],
    ids=str,
)
def test_a_warm_start_writes_as_its_subject_does_but_for_positions(changes: dict) -> None:
    subject = llama_subject(**changes)
    target = seq2seq_from_causal(subject.model).eval()
    for stack in (target.encoder, target.decoder):  # T5's positions, which the subject does not have
        stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data.zero_()
    ids = torch.tensor([[5, 9, 5, 20, 7, 11]])
    nowhere = torch.zeros_like(ids)  # a rotation by nothing
    anything = torch.randn(1, 4, 16)
    with torch.no_grad():
        expected = subject.model(input_ids=ids, position_ids=nowhere).logits
        found = target(inputs_embeds=anything, decoder_input_ids=ids).logits
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        # The encoder is the subject reading in both directions.
        open_mask = torch.zeros(1, 1, 6, 6)
        hidden = subject.model.model(input_ids=ids, position_ids=nowhere, attention_mask=open_mask).last_hidden_state
        torch.testing.assert_close(target.encoder(input_ids=ids).last_hidden_state, hidden, atol=1e-4, rtol=1e-4)


def test_single_tokens_are_read_as_the_subject_reads_them_without_any_change_to_the_model() -> None:
    subject = llama_subject()
    target = seq2seq_from_causal(subject.model).eval()
    ids = torch.arange(tiny_models.VOCAB_SIZE)[:, None]
    with torch.no_grad():
        expected = subject.model(input_ids=ids).logits
        found = target(inputs_embeds=torch.randn(len(ids), 3, 16), decoder_input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_cross_attention_is_silent_at_the_start_and_opens_with_its_output_matrix() -> None:
    translator = Translator.for_subject(llama_subject(), Design("encoder-decoder"))
    model = translator.model.seq2seq.eval()
    ids = torch.tensor([[5, 6, 7]])

    def written(seed: int) -> Tensor:
        encoder_reads = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return model(inputs_embeds=encoder_reads, decoder_input_ids=ids).logits

    assert torch.equal(written(0), written(1))
    model.decoder.block[0].layer[1].EncDecAttention.o.weight.data.add_(0.1)
    assert (written(0) - written(1)).abs().max() > 1e-3


def test_the_reader_gives_the_encoder_the_subjects_own_vectors_at_the_scale_of_its_embedding() -> None:
    subject = llama_subject()
    translator = Translator.for_subject(subject, Design("encoder-decoder"))
    words = subject.embed_text("cat dog")[None]
    torch.testing.assert_close(translator.model.reader(words), words, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_other_architectures_cannot_warm_start(architecture: str) -> None:
    assert not can_warm_start(tiny_models.subject(architecture).model)  # this Llama shares keys among heads


def test_only_the_feed_forward_of_llama_itself_can_warm_start() -> None:
    assert can_warm_start(llama_subject().model)
    assert not can_warm_start(llama_subject(hidden_act="gelu").model)


def test_a_gpt2_subject_gets_a_random_t5_that_begins_without_opinions() -> None:
    subject = tiny_models.subject("gpt2")
    translator = Translator.for_subject(subject, Design("encoder-decoder"))
    config = translator.model.config
    assert config.model_type == "t5"
    assert (config.vocab_size, config.eos_token_id) == (tiny_models.VOCAB_SIZE, subject.eos_ids[0])
    probabilities = logits(translator).log_softmax(-1)
    assert float(-probabilities.mean()) < 2 * math.log(tiny_models.VOCAB_SIZE)  # about 25 where nothing is scaled


def test_a_base_checkpoint_of_another_width_is_used_with_its_own_tokenizer_and_weights(tmp_path: Path) -> None:
    base = base_checkpoint(tmp_path / "base")
    translator = Translator.for_subject(tiny_models.subject("gpt2"), Design(base=base))
    assert translator.model.reader.projection.weight.shape == (24, 16)
    expected = T5ForConditionalGeneration.from_pretrained(base).state_dict()
    for name, tensor in translator.model.seq2seq.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert logits(translator).isfinite().all()
