"""The second architecture (a causal LM under LoRA) and hidden states as input, each against its definition."""

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig

from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator import candidates, causal
from soft2hard.translator.candidates import Reading, propose, tidy
from soft2hard.translator.causal import CausalTranslator
from soft2hard.translator.model import Translator, translator_fingerprint
from soft2hard.translator.settings import MAX_INSTRUCTION_TOKENS, Design, TranslateConfig
from soft2hard.translator.training import train_translator
from soft2hard.translator.translate import translate
from tests import tiny_models, tiny_training
from tests.command_line import run
from tests.tiny_training import corpora

DESIGNS = {
    "causal": Design("causal-lora", lora_rank=4),
    "causal, hidden": Design("causal-lora", lora_rank=4, hidden_layers=(2,)),
    "encoder-decoder, hidden": Design("encoder-decoder", hidden_layers=(1, 2)),
}
CAUSAL = DESIGNS["causal"]
CAUSAL_LMS = ["llama", "gpt2", "opt", "bloom", "qwen3"]


def prompts(subject: Subject, *lengths: int) -> list[SoftPrompt]:
    generator = torch.Generator().manual_seed(1)
    return [SoftPrompt(torch.randn(n, subject.d_model, generator=generator), template=Template()) for n in lengths]


def llama(seed: int = 0, **changes: object) -> Subject:
    """With room for an instruction of any length after a soft prompt."""
    return tiny_training.llama_subject(seed, **{"max_position_embeddings": 128} | changes)


def long_subject(architecture: str) -> Subject:
    """Of another kind, with as much room."""
    config = copy.deepcopy(tiny_models.CONFIGS[architecture])
    config.max_position_embeddings = 128
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    return Subject(model, tiny_models.tokenizer(architecture), name=architecture)


def stirred(translator: Translator) -> Translator:
    """As if trained: all that learns has moved."""
    generator = torch.Generator().manual_seed(2)
    for parameter in translator.model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    translator.model.eval()
    return translator


def saved_subject(folder: Path) -> Subject:
    subject = llama()
    subject.model.save_pretrained(folder)
    subject.tokenizer.save_pretrained(folder)
    return Subject.from_pretrained(folder)


@torch.no_grad()
def next_logits(translator: Translator, soft_prompt: SoftPrompt, ids: list[int]) -> Tensor:
    """A causal translator's logits after these tokens: one sequence, without cache, mask or padding."""
    model = translator.model
    hidden = () if model.hidden_states is None else hidden_by_definition(model.hidden_states.subject, soft_prompt)
    table = model.lm.get_input_embeddings().weight
    chosen = [h for layer, h in enumerate(hidden, 1) if layer in translator.card.hidden_layers]
    read = model.reader(soft_prompt.embeddings[None], chosen)[0]
    rows = [table[1][None], read, model.begin[None], table[ids]]
    return model.lm(inputs_embeds=torch.cat(rows)[None]).logits[0, -1]


@torch.no_grad()
def hidden_by_definition(subject: Subject, soft_prompt: SoftPrompt) -> list[Tensor]:
    """Every layer's hidden states over a soft prompt alone in its batch."""
    whole = subject.prompt_embeddings(soft_prompt)[None]
    found = subject.model(inputs_embeds=whole, output_hidden_states=True).hidden_states[1:]
    return [layer[:, -soft_prompt.n_tokens :] for layer in found]


@pytest.mark.parametrize("name", ["causal", "causal, hidden"])
def test_greedy_text_and_log_probabilities_are_those_of_one_token_after_another(name: str) -> None:
    translator = stirred(Translator.for_subject(llama(), DESIGNS[name]))
    some = prompts(llama(), 2, 4, 3)
    for soft_prompt, texts in zip(some, propose(translator, some, 1), strict=True):
        ids: list[int] = []
        while len(ids) < MAX_INSTRUCTION_TOKENS and ids[-1:] != [2]:
            ids.append(int(next_logits(translator, soft_prompt, ids).argmax()))
        assert texts == [tidy(translator.tokenizer.decode(ids, skip_special_tokens=True))]
        words = translator.tokenizer.encode("red cat up", add_special_tokens=False)
        of_token = [
            next_logits(translator, soft_prompt, words[:i]).log_softmax(-1)[token]
            for i, token in enumerate([*words, 2])
        ]
        assert Reading(translator, soft_prompt).log_probs(["red cat up"]) == pytest.approx([float(sum(of_token))], 1e-4)


@pytest.mark.parametrize("architecture", CAUSAL_LMS)
def test_a_causal_translator_begins_as_its_base_and_batch_mates_change_nothing(architecture: str) -> None:
    subject = long_subject(architecture)
    translator = Translator.for_subject(subject, CAUSAL)
    some, labels = prompts(subject, 2, 5), torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])
    with torch.no_grad():
        together = translator.model.eval()(*translator.encode_batch(some), labels=labels).logits
        for i, soft_prompt in enumerate(some):
            alone = translator.model(*translator.encode_batch([soft_prompt]), labels=labels[i : i + 1]).logits
            kept = labels[i] >= 0
            torch.testing.assert_close(together[i][kept], alone[0][kept], rtol=1e-4, atol=1e-4)
            # Adapters are silent at first: these are the base's own logits.
            bos = [subject.embedding[1][None]] if subject.tokenizer.bos_token_id is not None else []
            words = subject.embed_ids(labels[i][kept][:-1])
            rows = torch.cat([*bos, soft_prompt.embeddings, translator.model.begin[None], words])[None]
            expected = subject.model(inputs_embeds=rows).logits[0, -int(kept.sum()) :]
            torch.testing.assert_close(alone[0][kept], expected, rtol=1e-4, atol=1e-4)
    assert propose(stirred(translator), some, 9)[1] == propose(translator, some[1:], 9)[0]


def test_training_moves_reader_and_adapters_alone_and_lowers_the_loss(tmp_path: Path) -> None:
    subject = saved_subject(tmp_path / "subject")
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    made = Translator.for_subject(subject, CAUSAL)
    at_first = tiny_training.loss(made, corpora(subject)[0])
    train_translator(made, *corpora(subject), tiny_training.config(epochs=12, lr=0.02, patience=12), tmp_path / "run")
    assert tiny_training.loss(made, corpora(subject)[0]) < 0.6 * at_first
    for name, tensor in subject.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    names = set(made.model.state_dict())
    assert names == {name for name, p in made.model.named_parameters() if p.requires_grad} | {"reader.scale"}
    shared = made.model.lm.get_input_embeddings().weight
    assert shared.data_ptr() == subject.embedding.data_ptr()  # one copy of the base in memory


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_a_training_is_read_back_and_what_is_saved_writes_the_same(tmp_path: Path, design: Design) -> None:
    subject = saved_subject(tmp_path / "subject")

    def made() -> Translator:
        torch.manual_seed(0)
        return Translator.for_subject(subject, design)

    trained = train_translator(made(), *corpora(subject), tiny_training.config(epochs=2), tmp_path / "run")
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])
    for other in (
        train_translator(made(), *corpora(subject), tiny_training.config(epochs=2), tmp_path / "run"),  # read back
        Translator.from_pretrained(tmp_path / "run" / "translator"),
    ):
        other.bind(subject)
        expected, found = (
            t.model.eval()(*t.encode_batch(prompts(subject, 2, 4)), labels=labels).logits for t in (trained, other)
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert other.card == trained.card
    with pytest.raises(UserError, match="other settings"):
        plain = Translator.for_subject(subject, Design("encoder-decoder"))
        train_translator(plain, *corpora(subject), tiny_training.config(epochs=2), tmp_path / "run")


def test_saved_adapters_are_pefts_own_and_give_its_logits(tmp_path: Path) -> None:
    subject = saved_subject(tmp_path / "subject")
    translator = stirred(Translator.for_subject(subject, CAUSAL))
    translator.save_pretrained(tmp_path / "translator")
    assert not (tmp_path / "translator" / "model.safetensors").exists()  # the base stays where it is
    assert translator.card.base == str((tmp_path / "subject").resolve())
    by_peft = PeftModel.from_pretrained(subject.model, tmp_path / "translator" / "adapter")
    memory = translator.model.encode(*translator.encode_batch(prompts(subject, 3)))
    with torch.no_grad():
        expected = by_peft(inputs_embeds=memory.states).logits[:, -1:]
    found = translator.model.logits(memory, torch.tensor([[5]]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_saved_in_bfloat16_adapters_are_loaded_in_float32(tmp_path: Path) -> None:
    translator = stirred(Translator.for_subject(saved_subject(tmp_path / "subject"), CAUSAL))
    translator.save_pretrained(tmp_path / "translator", dtype=torch.bfloat16)
    weights = load_file(tmp_path / "translator" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    loaded = Translator.from_pretrained(tmp_path / "translator")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("damage", ["adapter gone", "adapter cut", "another base", "base gone"])
def test_a_causal_translator_that_cannot_be_whole_is_refused(tmp_path: Path, damage: str) -> None:
    subject = saved_subject(tmp_path / "subject")
    Translator.for_subject(subject, CAUSAL).save_pretrained(tmp_path / "translator")
    weights = tmp_path / "translator" / "adapter" / "adapter_model.safetensors"
    if damage == "adapter gone":
        weights.unlink()
    elif damage == "adapter cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "another base":
        llama(seed=1).model.save_pretrained(tmp_path / "subject")
    else:
        (tmp_path / "subject").rename(tmp_path / "moved")
    with pytest.raises(UserError) as error:
        Translator.from_pretrained(tmp_path / "translator")
    assert "\n" not in str(error.value)
    if damage == "base gone":
        Translator.from_pretrained(tmp_path / "translator", base=str(tmp_path / "moved"))


def test_beside_its_subject_a_causal_translator_shares_its_weights_wherever_it_lies(tmp_path: Path) -> None:
    subject = saved_subject(tmp_path / "subject")
    made = stirred(Translator.for_subject(subject, CAUSAL))
    made.save_pretrained(tmp_path / "translator")
    (tmp_path / "subject").rename(tmp_path / "moved")
    moved = Subject.from_pretrained(tmp_path / "moved")
    before = moved.model(input_ids=torch.tensor([[5, 6]])).logits
    loaded = Translator.from_pretrained(tmp_path / "translator", subject=moved)
    assert loaded.model.lm.get_input_embeddings().weight.data_ptr() == moved.embedding.data_ptr()
    assert propose(loaded, prompts(moved, 3), 5) == propose(made, prompts(moved, 3), 5)
    assert torch.equal(moved.model(input_ids=torch.tensor([[5, 6]])).logits, before)  # the subject has no adapters
    with pytest.raises(UserError, match="another subject"):
        Translator.from_pretrained(tmp_path / "translator", subject=llama(seed=1), base=str(tmp_path / "moved"))


def in_bfloat16(monkeypatch: pytest.MonkeyPatch, folder: Path, is_fast: bool) -> tuple[Subject, Translator, Translator]:
    """A subject in bfloat16, a translator as it was made for it in float32, and the same loaded beside that subject."""
    made = stirred(Translator.for_subject(saved_subject(folder / "subject"), CAUSAL))
    made.save_pretrained(folder / "translator")
    monkeypatch.setattr(causal, "has_fast_bf16", lambda device: is_fast)
    subject = Subject.from_pretrained(folder / "subject", dtype=torch.bfloat16)
    return subject, made, Translator.from_pretrained(folder / "translator", subject=subject)


def test_where_bfloat16_is_slow_a_causal_translator_is_in_float32_beside_its_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, loaded = in_bfloat16(monkeypatch, tmp_path, is_fast=False)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_where_bfloat16_is_fast_a_causal_translator_computes_in_it_with_its_subjects_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, made, loaded = in_bfloat16(monkeypatch, tmp_path, is_fast=True)
    names, some, texts = list(loaded.model.state_dict()), prompts(subject, 3), ["up down", "red green blue", "cat"]
    assert loaded.model.lm.get_input_embeddings().weight.data_ptr() == subject.embedding.data_ptr()
    found, expected = (torch.tensor(Reading(t, some[0]).log_probs(texts)) for t in (loaded, made))
    plain = torch.tensor(Reading(Translator.for_subject(llama(), CAUSAL), some[0]).log_probs(texts))
    assert (found - expected).norm() < 0.1 * (plain - expected).norm()
    assert all(propose(loaded, some, 1))
    with torch.no_grad():
        at_work = loaded.model.eval()._reads_and_writes
    assert {p.dtype for p in at_work.parameters()} == {torch.bfloat16}
    assert at_work.get_input_embeddings().weight is loaded.model.lm.get_input_embeddings().weight
    loaded.model.load_state_dict(Translator.for_subject(llama(), CAUSAL).model.state_dict())
    assert (torch.tensor(Reading(loaded, some[0]).log_probs(texts)) - plain).norm() < 0.1 * (plain - expected).norm()
    loaded.model.load_state_dict(made.model.state_dict())
    # What is saved and told apart by is as it was.
    assert list(loaded.model.state_dict()) == names
    assert translator_fingerprint(loaded) == translator_fingerprint(made)


def test_the_head_reads_hidden_states_in_one_piece() -> None:
    translator, read = Translator.for_subject(llama(), CAUSAL), []
    translator.model.lm.get_output_embeddings().register_forward_pre_hook(lambda _, given: read.extend(given))
    memory = translator.model.encode(*translator.encode_batch(prompts(llama(), 3, 3)))
    translator.model.logits(memory, torch.tensor([[5, 6], [7, 8]]))
    assert [tuple(hidden.shape[:2]) for hidden in read] == [(2, 2)] and read[0].is_contiguous()


def test_one_that_computes_in_bfloat16_is_trained_further_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, _, loaded = in_bfloat16(monkeypatch, tmp_path, is_fast=True)
    before = loaded.model.lm.get_input_embeddings().weight
    trained = train_translator(loaded, *corpora(subject), tiny_training.config(epochs=1), tmp_path / "run")
    assert {p.dtype for p in trained.model.parameters()} == {torch.float32}
    assert subject.embedding.dtype == torch.bfloat16 and before.dtype == torch.bfloat16


def test_a_causal_translator_may_write_with_another_model_of_another_width_and_vocabulary(tmp_path: Path) -> None:
    long_subject("gpt2").model.save_pretrained(tmp_path / "base")
    tiny_models.tokenizer("gpt2").save_pretrained(tmp_path / "base")
    subject = llama(hidden_size=24)
    design = Design("causal-lora", base=str(tmp_path / "base"), lora_rank=2)
    translator = stirred(Translator.for_subject(subject, design))
    assert translator.model.reader.projection.weight.shape == (16, 24)
    some = prompts(subject, 2, 3)
    written = propose(translator, some, 5)
    translator.save_pretrained(tmp_path / "translator")
    assert propose(Translator.from_pretrained(tmp_path / "translator"), some, 5) == written


def test_a_context_without_room_is_refused_in_one_line() -> None:
    translator = Translator.for_subject(llama(), CAUSAL)
    with pytest.raises(UserError, match="reads 128 tokens.*need 129.*longer context"):
        propose(translator, prompts(llama(), 62), 1)
    assert propose(translator, prompts(llama(), 61), 1)


def test_by_default_a_causal_subject_with_room_writes_itself_and_others_get_an_encoder_decoder() -> None:
    assert Design().architecture_for(llama()) == "causal-lora"
    assert Design().architecture_for(tiny_models.subject("bloom")) == "causal-lora"  # no limit to what it reads
    assert Design().architecture_for(llama(max_position_embeddings=127)) == "encoder-decoder"
    assert Design().architecture_for(tiny_models.subject("t5")) == "encoder-decoder"
    assert Design(base="google/t5-v1_1-base").architecture_for(llama()) == "encoder-decoder"
    assert Design("encoder-decoder").architecture_for(llama()) == "encoder-decoder"


@pytest.mark.parametrize("architecture", ["causal-lora", "encoder-decoder"])
def test_a_subjects_own_generation_settings_change_no_text(architecture: str) -> None:
    def texts(**settings: object) -> list[list[str]]:
        subject = llama()
        subject.model.generation_config.update(**settings)
        torch.manual_seed(0)
        return propose(stirred(Translator.for_subject(subject, Design(architecture))), prompts(subject, 3, 4), 1)

    plain = texts()
    for settings in ({"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}, {"suppress_tokens": list(range(5, 20))}):
        assert texts(**settings) == plain


def mixtral() -> Subject:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    tokenizer = tiny_models.tokenizer("llama")
    config = MixtralConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **sizes, **heads)
    return Subject(AutoModelForCausalLM.from_config(config), tokenizer, name="experts")


def test_experts_have_adapters_without_dropout_which_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    subject = mixtral()
    translator = stirred(Translator.for_subject(subject, Design("causal-lora", dropout=0.1)))
    assert "'experts' has experts, whose adapters have no dropout" in capsys.readouterr().err
    assert any("experts" in name and "lora_" in name for name, _ in translator.model.named_parameters())
    translator.save_pretrained(tmp_path / "translator")
    loaded = Translator.from_pretrained(tmp_path / "translator", subject=subject)
    assert propose(loaded, prompts(subject, 3), 1) == propose(translator, prompts(subject, 3), 1)


def test_a_model_that_does_not_write_from_vectors_gets_an_encoder_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = llama()
    monkeypatch.setattr(subject.model, "prepare_inputs_for_generation", lambda input_ids, **given: {})
    assert Design().architecture_for(subject) == "encoder-decoder"
    with pytest.raises(UserError, match=r"\(llama\) does not write from vectors"):
        Translator.for_subject(subject, CAUSAL)


def test_an_encoder_decoder_cannot_be_the_base_of_a_causal_translator() -> None:
    with pytest.raises(UserError, match="is an encoder-decoder"):
        Translator.for_subject(tiny_models.subject("t5"), CAUSAL)


@pytest.mark.parametrize("architecture", [*CAUSAL_LMS, "t5"])
def test_hidden_states_are_the_subjects_own_over_each_soft_prompt_alone(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    translator = Translator.for_subject(subject, Design("encoder-decoder", hidden_layers=(2, 1)))
    some = prompts(subject, 2, 5)
    found = translator.model.hidden_states(*translator.encode_batch(some))
    for i, soft_prompt in enumerate(some):
        whole = subject.prompt_embeddings(soft_prompt)[None]
        model = subject.model.get_encoder() if subject.is_encoder_decoder else subject.model.base_model
        with torch.no_grad():
            states = model(inputs_embeds=whole, output_hidden_states=True).hidden_states
        for layer, of_layer in zip((2, 1), found, strict=True):
            expected = states[layer][0, -soft_prompt.n_tokens :]
            torch.testing.assert_close(of_layer[i, : soft_prompt.n_tokens], expected, rtol=1e-4, atol=1e-4)


def test_hidden_states_are_silent_at_first_and_matter_once_trained() -> None:
    subject = llama()
    torch.manual_seed(0)
    plain = Translator.for_subject(subject, Design("encoder-decoder"))
    torch.manual_seed(0)
    reading = Translator.for_subject(subject, Design("encoder-decoder", hidden_layers=(2,)))
    soft, mask = plain.encode_batch(prompts(subject, 3))
    assert torch.equal(plain.model.eval().read(soft, mask), reading.model.eval().read(soft, mask))
    reading.model.reader.of_layers[0].weight.data.fill_(0.1)
    read = reading.model.read(soft, mask)
    reading.model.hidden_states.subject = llama(seed=1)
    assert (reading.model.read(soft, mask) - read).abs().max() > 1e-3


@pytest.mark.parametrize("layers", [(0,), (3,), (1, 1), (-1,)])
def test_layers_that_the_subject_has_not_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="has 2.*distinct layers from 1 to 2|not a number above 0"):
        Translator.for_subject(llama(), Design("encoder-decoder", hidden_layers=layers))


def test_a_reader_of_hidden_states_asks_for_its_subject_and_takes_it_from_whoever_translates(tmp_path: Path) -> None:
    subject = saved_subject(tmp_path / "subject")
    stirred(Translator.for_subject(subject, Design("encoder-decoder", hidden_layers=(1,)))).save_pretrained(
        tmp_path / "translator"
    )
    loaded = Translator.from_pretrained(tmp_path / "translator")
    some = prompts(subject, 3)
    with pytest.raises(UserError, match="reads hidden states.*Give the subject"):
        propose(loaded, some, 1)
    with pytest.raises(UserError, match="another subject"):
        loaded.bind(llama(seed=1))
    (translation,) = translate(some, loaded, subject, TranslateConfig(4, 4, 4), inputs=["cat", "dog", "red", "up"])
    assert translation.verdict != "unverified"
    assert translation.greedy == propose(loaded, some, 1)[0][0]


def test_on_the_command_line_both_are_trained_and_translate(tmp_path: Path) -> None:
    subject = saved_subject(tmp_path / "subject")
    for name, seed in (("corpus", 0), ("validation", 1)):
        write_corpus(tmp_path / name, subject, seed)
    common = ("--validation", tmp_path / "validation", "--subject", tmp_path / "subject", "--epochs", 1, "--no-bf16")
    architecture = ("--architecture", "causal-lora", "--hidden-layers", "1,2", "--lora-rank", 2)
    result = run("train", tmp_path / "corpus", *common, *architecture, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    card = Translator.from_pretrained(tmp_path / "run" / "translator").card
    assert (card.architecture, card.hidden_layers) == ("causal-lora", (1, 2))
    prompts(subject, 3)[0].save(tmp_path / "prompt.safetensors")
    words = tmp_path / "words.txt"
    words.write_text("cat\ndog\nred\nup\n")
    models = ("--subject", tmp_path / "subject", "--translator", tmp_path / "run" / "translator")
    result = run("translate", tmp_path / "prompt.safetensors", "--examples", words, *models, "--candidates", 4)
    assert result.exit_code == 0, result.stderr
    result = run("translate", tmp_path / "prompt.safetensors", "--no-verify", *models)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "leave out --no-verify" in result.stderr
    for bad in ("two", "0", "1,3"):
        result = run("train", tmp_path / "corpus", *common, "--hidden-layers", bad, "-o", tmp_path / "bad")
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
        assert not (tmp_path / "bad").exists()


def write_corpus(folder: Path, subject: Subject, seed: int) -> None:
    """A corpus on disk, as `tune --dod` makes it, with other tasks for another seed."""
    from soft2hard.data_gen.corpus.folder import CorpusPlan
    from soft2hard.data_gen.corpus.shards import CorpusBuilder
    from soft2hard.data_gen.dods.lexical import LexicalDoD
    from soft2hard.data_gen.tuning import Tuning

    split = ("train", "validation")[seed]
    tuning = Tuning(n_tokens=3, steps=1, batch_size=2, eval_every=1, init="vocabulary")
    plan = CorpusPlan("lexical", split, 4, subject.fingerprint, tuning)
    for _ in CorpusBuilder(folder, plan, LexicalDoD(for_translator=True), subject).build():
        pass


@pytest.mark.parametrize("design", [*DESIGNS.values(), Design("encoder-decoder")], ids=[*DESIGNS, "encoder-decoder"])
def test_an_evaluation_knows_translators_apart_by_their_weights(design: Design, tmp_path: Path) -> None:
    subject = saved_subject(tmp_path / "subject")
    torch.manual_seed(0)
    first = Translator.for_subject(subject, design)
    first.save_pretrained(tmp_path / "translator")
    before = translator_fingerprint(first)
    assert translator_fingerprint(Translator.from_pretrained(tmp_path / "translator")) == before
    assert translator_fingerprint(stirred(first)) != before


# --- reading once -------------------------------------------------------------------------------------


def all_of(
    translator: Translator, read: list[SoftPrompt]
) -> tuple[list[list[str]], list[list[float]], list[list[int]]]:
    """Greedy texts, beams and samples; how likely they are; and how they go on after their first two tokens."""
    texts = propose(translator, read, 12)
    readings = [Reading(translator, prompt) for prompt in read]
    likely = [reading.log_probs(some) for reading, some in zip(readings, texts, strict=True)]
    begun = [[translator.encode_instruction(text)[:2] for text in some] for some in texts]
    return texts, likely, [row for r, some in zip(readings, begun, strict=True) for row in r.complete(some)]


@pytest.mark.parametrize("architecture", CAUSAL_LMS)
def test_what_is_read_once_for_many_texts_gives_what_reading_it_for_each_gives(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = long_subject(architecture)
    translator = stirred(Translator.for_subject(subject, CAUSAL))
    read = prompts(subject, 2, 9, 5)
    with torch.no_grad():
        assert translator.model.eval().encode(*translator.encode_batch(read)).cache is not None
    texts, likely, completed = all_of(translator, read)
    monkeypatch.setattr(CausalTranslator, "_cached", lambda self, memory: memory)
    expected, as_likely, as_completed = all_of(translator, read)
    assert texts == expected and completed == as_completed
    for found, wanted in zip(likely, as_likely, strict=True):
        assert found == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("architecture", CAUSAL_LMS)
def test_as_many_rows_are_written_together_as_there_is_room_for_their_keys_and_values(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = long_subject(architecture)
    translator = stirred(Translator.for_subject(subject, Design("causal-lora", lora_rank=4, instruction_tokens=9)))
    some = prompts(subject, 5, 5, 5, 5)
    with torch.no_grad():
        layers = translator.model.encode(*translator.encode_batch(some)).cache.layers
    of_position = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) // (4 * layers[0].keys.shape[2])
    together, read = propose(translator, some, 2), []
    encode = translator.model.encode
    monkeypatch.setattr(translator.model, "encode", lambda *of: read.append(len(of[0])) or encode(*of))
    for n_prompts, expected in ((4, [4]), (3, [3, 1]), (2, [2, 2]), (0, [1, 1, 1, 1])):
        read.clear()
        monkeypatch.setattr(candidates, "_CACHE_AT_ONCE", n_prompts * 2 * (5 + 9) * of_position)
        assert propose(translator, some, 2) == together
        assert read == expected
