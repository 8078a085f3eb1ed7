"""Translators: an architecture with its tokenizer and card, made, saved and loaded."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from soft2hard.errors import UserError, first_line
from soft2hard.lm.loading import READING_ERRORS
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.hub import local_folder
from soft2hard.translator.architecture import TranslatorModel
from soft2hard.translator.assembly import (
    load_reader,
    new_causal,
    new_encoder_decoder,
    reader_state,
    saved_causal,
    saved_reader,
)
from soft2hard.translator.card import CARD_FILE, TranslatorCard, read_card, write_card
from soft2hard.translator.causal import CausalTranslator
from soft2hard.translator.encoder_decoder import EncoderDecoderTranslator, load_seq2seq
from soft2hard.translator.reader import HiddenStates
from soft2hard.translator.settings import Design

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
        make = new_causal if architecture == "causal-lora" else new_encoder_decoder
        model, tokenizer, of_base = make(subject, design, hidden)
        model.hidden_states = hidden
        card = TranslatorCard(
            subject=subject.name,
            fingerprint=subject.fingerprint,
            d_subject=subject.d_model,
            architecture=architecture,
            hidden_layers=tuple(design.hidden_layers),
            instruction_tokens=design.instruction_tokens,
            **of_base,
        )
        return cls(model, tokenizer, card)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        base: str | None = None,
        subject: Subject | None = None,
    ) -> "Translator":
        """Load a translator saved by `save_pretrained`, from a folder, the local cache or the hub.

        `base` is where the causal LM under a LoRA translator lies now, if not where it was trained. With `subject` the
        translator is bound to it, and writes with it where that is its base: its weights are then in memory once
        (on a CPU they must be in float32 for that, else they are read again). Unless `device` says other, it runs where
        its causal LM or the subject does, else on the CPU. Raises UserError where the folder is
        missing, is no translator, or is damaged, and where base or subject is another model.
        """
        name, path = str(path), local_folder(path, "translator")
        card = read_card(path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            weights = {name: tensor.float() for name, tensor in load_file(path / READER_FILE).items()}
            reader = saved_reader(card, weights)
            if card.architecture == "causal-lora":
                model = saved_causal(path, card, reader, base, subject)
            else:
                model = EncoderDecoderTranslator(load_seq2seq(path), reader)
            load_reader(model, weights)
        except READING_ERRORS as error:
            raise UserError(
                f"The translator in '{path}' cannot be read: {first_line(error)}.", "Train or copy it again."
            ) from error
        beside = "cpu" if subject is None else subject.device
        device = device or (model.lm.device if isinstance(model, CausalTranslator) else beside)
        translator = cls(model.eval().to(device), tokenizer, card, name=name)
        if subject is not None:
            translator.bind(subject)
        return translator

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
            save_file(reader_state(self.model), folder / READER_FILE)
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
