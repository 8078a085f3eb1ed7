"""Translators: an architecture with its tokenizer and card, made, saved and loaded."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from soft2hard.checkpoints import resolve
from soft2hard.errors import UserError, first_line
from soft2hard.files import atomic_folder
from soft2hard.hub import local_folder
from soft2hard.loading import READING_ERRORS, Loading, load_tokenizer
from soft2hard.softprompt import SoftPrompt
from soft2hard.subject import Subject
from soft2hard.translator.architecture import TranslatorModel
from soft2hard.translator.card import CARD_FILE, TranslatorCard, read_card, write_card
from soft2hard.translator.causal import (
    CausalTranslator,
    base_name,
    load_with_lora,
    refuse_encoder_decoder,
    with_lora,
)
from soft2hard.translator.design import Design
from soft2hard.translator.encoder_decoder import EncoderDecoderTranslator, load_seq2seq, new_seq2seq
from soft2hard.translator.reader import HiddenStates, SoftPromptReader

READER_FILE = "reader.safetensors"


class Translator:
    """Writes instructions for the soft prompts of one subject."""

    def __init__(
        self, model: TranslatorModel, tokenizer: PreTrainedTokenizerBase, card: TranslatorCard, name: str = "translator"
    ):
        self.model, self.tokenizer, self.card, self.name = model, tokenizer, card, name

    @property
    def device(self) -> torch.device:
        return self.model.device

    @classmethod
    def for_subject(cls, subject: Subject, design: Design = Design()) -> "Translator":
        """A translator that has not been trained yet.

        Raises UserError for layers that the subject has not, and for a base that cannot be read or is of the wrong
        kind.
        """
        architecture = design.architecture_for(subject)
        hidden = HiddenStates(subject, design.hidden_layers) if design.hidden_layers else None
        make = _new_causal if architecture == "causal-lora" else _new_encoder_decoder
        model, tokenizer, of_base = make(subject, design, hidden)
        model.hidden_states = hidden
        card = TranslatorCard(
            subject=subject.name,
            fingerprint=subject.fingerprint,
            d_subject=subject.d_model,
            architecture=architecture,
            hidden_layers=tuple(design.hidden_layers),
            **of_base,
        )
        return cls(model, tokenizer, card)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | torch.device | None = None, base: str | None = None
    ) -> "Translator":
        """Load a translator saved by `save_pretrained`, from a folder, the local cache or the hub.

        `base` is where the causal LM under a LoRA translator lies now, if not where it was trained. Raises UserError
        where the folder is missing, is no translator, or is damaged, or where the base is another model.
        """
        name, path = str(path), local_folder(path, "translator")
        card = read_card(path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            weights = {name: tensor.float() for name, tensor in load_file(path / READER_FILE).items()}
            reader = _saved_reader(card, weights)
            if card.architecture == "causal-lora":
                model = _saved_causal(path, card, reader, base)
            else:
                model = EncoderDecoderTranslator(load_seq2seq(path), reader)
            _load_reader(model, weights)
        except READING_ERRORS as error:
            raise UserError(
                f"The translator in '{path}' cannot be read: {first_line(error)}.", "Train or copy it again."
            ) from error
        return cls(model.eval().to(device) if device else model.eval(), tokenizer, card, name=name)

    def save_pretrained(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Save model, reader, tokenizer and card to a folder, whole or not at all, optionally in another dtype.

        A translator already in the folder is replaced. Raises UserError for a folder that holds anything else.
        """
        state = {name: t.detach().to(dtype or t.dtype).contiguous() for name, t in self.model.state_dict().items()}
        inner = "seq2seq."
        with atomic_folder(path, overwrite=(Path(path) / CARD_FILE).is_file()) as folder:
            if isinstance(self.model, CausalTranslator):
                self.model.save_adapter(folder, dtype)
            else:
                of_lm = {name.removeprefix(inner): t for name, t in state.items() if name.startswith(inner)}
                self.model.lm.save_pretrained(folder, state_dict=of_lm)
            self.tokenizer.save_pretrained(folder)
            save_file(_reader_state(self.model), folder / READER_FILE)
            write_card(folder, self.card)

    def check(self, soft_prompt: SoftPrompt) -> None:
        """Raise UserError if this translator was trained for the soft prompts of another subject."""
        if soft_prompt.d_model != self.card.d_subject:
            raise UserError(
                f"The soft prompt is {soft_prompt.d_model} wide; this translator reads {self.card.d_subject}.",
                f"Use a translator trained for its subject (this one: '{self.card.subject}').",
            )
        if soft_prompt.fingerprint is not None and soft_prompt.fingerprint != self.card.fingerprint:
            raise UserError(
                "The soft prompt belongs to another subject than this translator was trained for.",
                f"Use a translator trained for its subject (this one: '{self.card.subject}').",
            )

    def check_subject(self, subject: Subject) -> None:
        """Raise UserError unless this is the subject the translator was trained for."""
        if subject.fingerprint != self.card.fingerprint:
            raise UserError(
                f"The translator '{self.name}' was trained for another subject than '{subject.name}'.",
                f"Use its own subject ('{self.card.subject}') or another translator.",
            )

    def bind(self, subject: Subject) -> None:
        """Let a translator that reads hidden states take them from this subject; others just check it.

        Raises UserError unless this is the subject the translator was trained for.
        """
        self.check_subject(subject)
        if self.card.hidden_layers and self.model.hidden_states is None:
            self.model.hidden_states = HiddenStates(subject, self.card.hidden_layers)

    def encode_batch(
        self, soft_prompts: Sequence[SoftPrompt]
    ) -> tuple[Float[Tensor, "batch n d_subject"], Int[Tensor, "batch n"]]:
        """Soft prompts padded to one length, and their attention mask.

        Raises UserError for soft prompts of another subject, and where hidden states are wanted without a subject.
        """
        for soft_prompt in soft_prompts:
            self.check(soft_prompt)
        if self.card.hidden_layers and self.model.hidden_states is None:
            raise UserError(
                f"The translator '{self.name}' reads hidden states of its subject, which is not loaded.",
                f"Give the subject ('{self.card.subject}'); on the command line, leave out --no-verify.",
            )
        padded = nn.utils.rnn.pad_sequence([p.embeddings for p in soft_prompts], batch_first=True)
        lengths = torch.tensor([p.n_tokens for p in soft_prompts])
        mask = (torch.arange(padded.shape[1])[None] < lengths[:, None]).long()
        return padded.to(self.device), mask.to(self.device)

    def n_read(self, soft_prompt: SoftPrompt) -> int:
        """Tokens that models are given to read a soft prompt: by this one, and by the subject for its hidden states."""
        hidden = self.model.hidden_states
        return soft_prompt.n_tokens * (1 if hidden is None else 2)


_Made = tuple[TranslatorModel, PreTrainedTokenizerBase, dict[str, str]]


def _new_encoder_decoder(subject: Subject, design: Design, hidden: HiddenStates | None) -> _Made:
    base = None if design.base is None else str(local_folder(design.base, "subject"))
    seq2seq = new_seq2seq(subject, base, design.dropout)
    tokenizer = subject.tokenizer if base is None else load_tokenizer(base)
    return EncoderDecoderTranslator(seq2seq, _new_reader(subject, seq2seq, hidden)), tokenizer, {}


def _new_causal(subject: Subject, design: Design, hidden: HiddenStates | None) -> _Made:
    base = subject if design.base is None else Subject.from_pretrained(design.base, loading=subject.loading)
    refuse_encoder_decoder(base)
    model = CausalTranslator(
        with_lora(base.model, design.lora_rank, design.dropout), _new_reader(subject, base.model, hidden), base
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


def _saved_reader(card: TranslatorCard, weights: dict[str, Tensor]) -> SoftPromptReader:
    n_layers = len(card.hidden_layers)
    d_hidden = weights["of_layers.0.weight"].shape[1] if n_layers else 0
    return SoftPromptReader(card.d_subject, weights["projection.weight"].shape[0], d_hidden=d_hidden, n_layers=n_layers)


def _saved_causal(path: Path, card: TranslatorCard, reader: SoftPromptReader, name: str | None) -> CausalTranslator:
    loading = Loading(dtype="float32", device="cpu", attention="sdpa")
    base = Subject.from_pretrained(name or resolve(card.base, "subject"), loading=loading)
    refuse_encoder_decoder(base)
    if base.fingerprint != card.base_fingerprint:
        raise UserError(
            f"The translator '{path}' writes with another model than '{base.name}'.",
            "Give the model that it was trained on.",
        )
    return CausalTranslator(load_with_lora(base.model, path), reader, base)


def _reader_state(model: TranslatorModel) -> dict[str, Tensor]:
    """All that is neither the language model nor its adapters: the reader, and where writing begins."""
    state = {name: tensor.contiguous() for name, tensor in model.reader.state_dict().items()}
    return state | ({"begin": model.begin.detach().contiguous()} if isinstance(model, CausalTranslator) else {})


def _load_reader(model: TranslatorModel, weights: dict[str, Tensor]) -> None:
    if isinstance(model, CausalTranslator):
        model.begin.data.copy_(weights["begin"])
    model.reader.load_state_dict({name: tensor for name, tensor in weights.items() if name != "begin"})


def _rms(table: Tensor) -> float:
    return table.detach().float().square().mean().sqrt().item()
