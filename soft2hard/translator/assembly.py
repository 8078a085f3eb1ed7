"""The parts of translators: made new, or from what was saved."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from soft2hard.checkpoints import resolve
from soft2hard.errors import UserError
from soft2hard.lm.loading import Loading, load_tokenizer
from soft2hard.lm.subject import Subject
from soft2hard.storage.hub import local_folder
from soft2hard.translator.architecture import TranslatorModel
from soft2hard.translator.card import TranslatorCard
from soft2hard.translator.causal import (
    CausalTranslator,
    base_name,
    load_with_lora,
    refuse_encoder_decoder,
    with_lora,
)
from soft2hard.translator.encoder_decoder import EncoderDecoderTranslator, new_seq2seq
from soft2hard.translator.reader import HiddenStates, SoftPromptReader
from soft2hard.translator.settings import Design

_Made = tuple[TranslatorModel, PreTrainedTokenizerBase, dict[str, str]]


def new_encoder_decoder(subject: Subject, design: Design, hidden: HiddenStates | None) -> _Made:
    """An encoder-decoder with its tokenizer, and what the card says of its base: nothing."""
    base = None if design.base is None else str(local_folder(design.base, "subject"))
    seq2seq = new_seq2seq(subject, base, design.dropout)
    tokenizer = subject.tokenizer if base is None else load_tokenizer(base)
    return EncoderDecoderTranslator(seq2seq, _new_reader(subject, seq2seq, hidden)), tokenizer, {}


def new_causal(subject: Subject, design: Design, hidden: HiddenStates | None) -> _Made:
    """A causal LM under new adapters with its tokenizer, and what the card says of it."""
    base = subject if design.base is None else Subject.from_pretrained(design.base, loading=subject.loading)
    refuse_encoder_decoder(base)
    model = CausalTranslator(
        with_lora(base.model, design.lora_rank, design.dropout),
        _new_reader(subject, base.model, hidden),
        base,
        design.instruction_tokens,
    )
    return model, base.tokenizer, {"base": base_name(base), "base_fingerprint": base.fingerprint}


def _new_reader(subject: Subject, lm: PreTrainedModel, hidden: HiddenStates | None) -> SoftPromptReader:
    table = lm.get_input_embeddings().weight
    return SoftPromptReader(
        subject.d_model,
        table.shape[1],
        _rms(subject.embedding),
        _rms(table),
        d_hidden=hidden.d_hidden if hidden else 0,
        n_layers=len(hidden.layers) if hidden else 0,
    )


def saved_reader(card: TranslatorCard, weights: dict[str, Tensor]) -> SoftPromptReader:
    """A reader of the saved one's sizes."""
    n_layers = len(card.hidden_layers)
    d_hidden = weights["of_layers.0.weight"].shape[1] if n_layers else 0
    return SoftPromptReader(card.d_subject, weights["projection.weight"].shape[0], d_hidden=d_hidden, n_layers=n_layers)


def saved_causal(
    path: Path, card: TranslatorCard, reader: SoftPromptReader, name: str | None, subject: Subject | None
) -> CausalTranslator:
    """A causal LM under saved adapters. Raises UserError where it is not the model that they were trained on."""
    base = _base(card, name, subject)
    refuse_encoder_decoder(base)
    if base.fingerprint != card.base_fingerprint:
        raise UserError(
            f"The translator '{path}' writes with another model than '{base.name}'.",
            "Give the model that it was trained on.",
        )
    return CausalTranslator(load_with_lora(base.model, path), reader, base, card.instruction_tokens)


def _base(card: TranslatorCard, name: str | None, subject: Subject | None) -> Subject:
    """The causal LM under a saved translator: the subject that is loaded, or read from where it lies."""
    if name is None and subject is not None and subject.fingerprint == card.base_fingerprint:
        if subject.device.type != "cpu" or subject.embedding.dtype == torch.float32:
            return subject
        name = subject.name
    loading = Loading(dtype="float32", device="cpu", attention="sdpa")
    return Subject.from_pretrained(resolve(name or card.base, "subject"), loading=loading)


def reader_state(model: TranslatorModel) -> dict[str, Tensor]:
    """All that is neither the language model nor its adapters: the reader, and where writing begins."""
    state = {name: tensor.contiguous() for name, tensor in model.reader.state_dict().items()}
    return state | ({"begin": model.begin.detach().contiguous()} if isinstance(model, CausalTranslator) else {})


def load_reader(model: TranslatorModel, weights: dict[str, Tensor]) -> None:
    """Fill in what `reader_state` has saved."""
    if isinstance(model, CausalTranslator):
        model.begin.data.copy_(weights["begin"])
    model.reader.load_state_dict({name: tensor for name, tensor in weights.items() if name != "begin"})


def _rms(table: Tensor) -> float:
    return table.detach().float().square().mean().sqrt().item()
