"""The translator: its network with tokenizer and card, how it is saved, and whose soft prompts it reads.

The network's architecture (`encoder_decoder`, `causal`) is imported when it is used.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from soft2hard.errors import UserError, first_line
from soft2hard.lm.loading import READING_ERRORS, Loading
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.names import folder_of, name_of
from soft2hard.translator.data import View, padded
from soft2hard.translator.follower import FOLLOWER_FILE, Follower, read_follower
from soft2hard.translator.network import HiddenStates, SoftPromptReader, TranslatorModel
from soft2hard.translator.settings import CARD_FILE, Design, Evidence, Reads, TranslatorCard, read_card, write_card

READER_FILE = "reader.safetensors"
TOKENIZER_FILE = "tokenizer.json"
TRAINED_ON_FILE = "trained_on.txt"
ROWS_FILE = "subject_rows.safetensors"
"""Some rows of the subject's embeddings, by which another rounding of its weights is known again, or a close relative
such as its fine-tune, whose embeddings have hardly moved."""
_N_ROWS = 64
_SAME_ROWS = 0.98
"""Mean cosine of such rows from which two models are taken for roundings of one: 4 bits keep 0.99."""
_ARCHITECTURES = {
    "encoder-decoder": "soft2hard.translator.encoder_decoder:EncoderDecoderTranslator",
    "causal-lora": "soft2hard.translator.causal:CausalTranslator",
}
_OTHER_ROUNDING = (
    "'{}' has not the very weights that the translator was trained for ('{}'), but nearly its embeddings. Texts may be "
    "a little worse for another rounding of the same weights, and much worse for a fine-tune of the model."
)


_NO_FOLLOWER = "The follower of '{}' weighs no texts: its adapters fit no subject held in {}. The choice is worse."
_ABROAD = "The translator '{}' was trained for '{}': of soft prompts of '{}' it reads what they do, not their vectors."


def _some_rows(subject: Subject) -> dict[str, Tensor]:
    table = subject.embedding.detach()
    ids = torch.linspace(0, len(table) - 1, _N_ROWS, device=table.device).long()
    return {"ids": ids.cpu(), "rows": table[ids].to("cpu", torch.float16)}


def read_rows(folder: Path) -> dict[str, Tensor]:
    """The rows of a saved translator; none where it is older than they are."""
    return load_file(folder / ROWS_FILE) if (folder / ROWS_FILE).is_file() else {}


def is_rounding(rows: dict[str, Tensor], subject: Subject) -> bool:
    """Whether a subject's embeddings are another rounding of those that some rows are known of."""
    table = subject.embedding.detach()
    if not rows or table.shape[1] != rows["rows"].shape[1] or len(table) <= int(rows["ids"].max()):
        return False
    found, known = table[rows["ids"].to(table.device)].float().cpu(), rows["rows"].float()
    used = known.any(1)  # padding of a table has no direction
    return nn.functional.cosine_similarity(found[used], known[used], dim=1).mean().item() >= _SAME_ROWS


class Translator:
    """Writes instructions for the soft prompts of one subject."""

    def __init__(
        self, model: TranslatorModel, tokenizer: PreTrainedTokenizerBase, card: TranslatorCard, name: str = "translator"
    ):
        self.model, self.tokenizer, self.card, self.name = model, tokenizer, card, name
        self.trained_on: tuple[str, ...] = ()
        """The reference instructions that it was trained on; empty where that was not kept."""
        self.subject_rows: dict[str, Tensor] = {}
        """The rows in `ROWS_FILE`, with their numbers."""
        self.follower_adapters: Mapping[str, Tensor] | None = None
        self.follower: Follower | None = None
        """What weighs texts by how they account for what a soft prompt writes, where one was taught and the subject is
        given."""
        self.home: Subject | None = None
        """Its own subject, where it is for soft prompts of others (`abroad`), whose vectors it cannot read."""
        self._known = {card.fingerprint}

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def reads(self) -> Reads:
        """What it is given of a soft prompt, see `Design.reads`; of another subject's only what it does."""
        return self.card.reads if self.home is None else "examples"

    @property
    def evidence(self) -> Evidence:
        """How far its subject's reactions to texts are to be believed; of another subject nothing is known."""
        own = self.card.evidence
        return own if self.home is None else Evidence(None, consensus=own.consensus, follower=own.follower)

    @classmethod
    def for_subject(cls, subject: Subject, design: Design = Design()) -> "Translator":
        """A translator that has not been trained yet.

        Raises UserError for layers that the subject has not, and for a base that cannot be read or is of the wrong
        kind.
        """
        architecture = design.architecture_for(subject)
        hidden = HiddenStates(subject, design.hidden_layers) if design.hidden_layers else None
        model, tokenizer, of_base = resolve_name(_ARCHITECTURES[architecture]).new(subject, design, hidden)
        model.hidden_states = hidden
        card = TranslatorCard(
            # The package lies elsewhere on another machine.
            subject=name_of(subject.name),
            fingerprint=subject.fingerprint,
            d_subject=subject.d_model,
            architecture=architecture,
            hidden_layers=tuple(design.hidden_layers),
            instruction_tokens=design.instruction_tokens,
            reads=design.reads,
            shown=design.shown,
            **of_base,
        )
        translator = cls(model, tokenizer, card)
        translator.subject_rows = _some_rows(subject)
        return translator

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        base: str | None = None,
        subject: Subject | None = None,
        device: torch.device | str | None = None,
    ) -> "Translator":
        """Load a translator: 'embedded', the folder of one, or its name in the local cache or on the hub.

        `base` is where the causal LM under a LoRA translator lies now, if not where it was trained. With `subject` the
        translator is bound to it, and writes with it where that is its base: its weights are then in memory once, in
        the subject's precision (but for bfloat16 on a CPU that is slow in it: they are then read again, in float32).
        Otherwise it is in float32. Unless `device` says other, it runs where
        its causal LM or the subject does, else on the CPU. Raises UserError where the folder is
        missing, is no translator, or is damaged, and where base or subject is another model.
        """
        path = folder_of(name_or_path, "translator")
        card = read_card(path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            weights = {name: tensor.float() for name, tensor in load_file(path / READER_FILE).items()}
            reader = SoftPromptReader.saved(card, weights)
            model = resolve_name(_ARCHITECTURES[card.architecture]).load(path, card, reader, base, subject)
            model.load_beside_lm(weights)
        except READING_ERRORS as error:
            raise UserError(
                f"The translator in '{path}' cannot be read: {first_line(error)}.", "Train or copy it again."
            ) from error
        if device is None:
            beside_base = subject is None or card.architecture == "causal-lora"
            device = model.lm.device if beside_base else subject.device
        translator = cls(model.eval().to(device), tokenizer, card, name=str(name_or_path))
        if (kept := path / TRAINED_ON_FILE).is_file():
            translator.trained_on = tuple(kept.read_text(encoding="utf-8").splitlines())
        translator.subject_rows = read_rows(path)
        if subject is not None:
            translator.bind(subject)
        translator.follow_with(read_follower(path), subject)
        return translator

    def follow_with(self, adapters: Mapping[str, Tensor] | None, subject: Subject | None) -> None:
        """Take these adapters of its subject as its follower; without the subject they are kept, and weigh nothing. A
        subject in 8 or 4 bits cannot take them, which is said on standard error where they would count."""
        self.follower_adapters, self.follower = adapters, None
        if adapters is None or subject is None:
            return
        if subject.loading.quantization == "none":
            self.follower = Follower(subject, adapters)
        elif self.card.evidence.follower:
            print(_NO_FOLLOWER.format(self.name, subject.loading.quantization), file=sys.stderr)

    def __repr__(self) -> str:
        where = "soft prompts of any model" if self.home else f"soft prompts of '{self.card.subject}'"
        seen = {"vectors": "the vectors", "examples": "what they do", "both": "vectors and what they do"}
        read = f"reads {seen.get(self.reads, self.reads)} of {where}"
        name = name_of(self.name, "translator")
        return f"<Translator '{name}': {self.card.architecture}, {read}>"

    @classmethod
    def abroad(cls, name_or_path: str | Path, loading: Loading = Loading()) -> "Translator":
        """A translator that reads what soft prompts do, for those of subjects that it was not trained for.

        Nothing but what they do is read then, as text, in the words of its own subject, which is loaded with it, on the
        device and in the precision that `loading` says. Raises UserError for one that does not read this, and where its
        own subject cannot be loaded.
        """
        card = read_card(folder_of(name_or_path, "translator"))
        if not card.reads_examples:
            raise UserError(
                f"The translator '{name_or_path}' reads {card.reads}, not what soft prompts do.",
                "Give one that was trained with --reads both or examples.",
            )
        home = load_for_tuning(card.subject, Loading(dtype=loading.dtype, device=loading.device))
        translator = cls.from_pretrained(name_or_path, subject=home)
        translator.home = home
        return translator

    @classmethod
    def beside(cls, name_or_path: str | Path, subject: Subject) -> "Translator":
        """A translator for the soft prompts of a subject: bound to it where it was trained for it or for another
        rounding of its weights, else `abroad`, with a remark on standard error. Raises UserError as these do."""
        folder = folder_of(name_or_path, "translator")
        card = read_card(folder)
        is_own = subject.fingerprint == card.fingerprint or is_rounding(read_rows(folder), subject)
        if is_own or not card.reads_examples:
            return cls.from_pretrained(name_or_path, subject=subject)
        print(_ABROAD.format(name_or_path, card.subject, name_of(subject.name)), file=sys.stderr)
        return cls.abroad(name_or_path, subject.loading)

    def save_pretrained(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Save model, reader, tokenizer and card to a folder, whole or not at all, optionally in another dtype.

        A translator already in the folder is replaced. Raises UserError for a folder that holds anything else.
        """
        with atomic_folder(path, overwrite=(Path(path) / CARD_FILE).is_file()) as folder:
            self.model.save_lm(folder, dtype)
            self.tokenizer.save_pretrained(folder)
            if self.tokenizer.is_fast:  # as it was, but without the line breaks and spaces that more than double it
                self.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE), pretty=False)
            save_file(self.model.beside_lm(), folder / READER_FILE)
            if self.trained_on:
                (folder / TRAINED_ON_FILE).write_text("\n".join(self.trained_on) + "\n", encoding="utf-8")
            if self.subject_rows:
                save_file(self.subject_rows, folder / ROWS_FILE)
            if self.follower_adapters:
                save_file(dict(self.follower_adapters), folder / FOLLOWER_FILE)
            write_card(folder, self.card)

    def view(self, subject: Subject) -> View:
        """How this translator sees soft prompts of the subject, and their tasks."""
        return View(self.home or subject, self.reads, self.card.shown, self.model.room)

    def check(self, soft_prompt: SoftPrompt) -> None:
        """Raise UserError if this translator was trained for the soft prompts of another subject."""
        remedy = (
            f"Name its subject with --subject, or use a translator trained for it (this one: '{self.card.subject}')."
        )
        if self.card.reads_examples:
            remedy += " Where their subject runs (not with --no-verify), it reads what any soft prompts do."
        if soft_prompt.d_model != self.card.d_subject:
            raise UserError(
                f"The soft prompt is {soft_prompt.d_model} wide; this translator reads {self.card.d_subject}.", remedy
            )
        if soft_prompt.fingerprint is not None and soft_prompt.fingerprint not in self._known:
            raise UserError("The soft prompt belongs to another subject than this translator was trained for.", remedy)

    def bind(self, subject: Subject) -> None:
        """Let a translator that reads hidden states take them from this subject; others just check it. Nothing is to be
        checked of one `abroad`.

        Another rounding of the subject's weights is accepted, with a remark on standard error. Raises UserError for any
        other subject than the one that the translator was trained for.
        """
        if self.home is not None:
            return
        if subject.fingerprint not in self._known and is_rounding(self.subject_rows, subject):
            print(_OTHER_ROUNDING.format(subject.name, self.card.subject), file=sys.stderr)
            self._known.add(subject.fingerprint)
        if subject.fingerprint not in self._known:
            raise UserError(
                f"The translator '{self.name}' was trained for another subject than '{subject.name}'.",
                f"Use its own subject ('{self.card.subject}'), a translator that reads what soft prompts of any do "
                "(--translator smollm2; Translator.beside), or train one for this subject: make a corpus with "
                "soft2hard tune --dod, and train on it with soft2hard train.",
            )
        if self.card.hidden_layers and self.model.hidden_states is None:
            self.model.hidden_states = HiddenStates(subject, self.card.hidden_layers)

    def encode_instruction(self, text: str) -> list[int]:
        """Token ids of an instruction, cut to the longest that this translator writes, with its end."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return [*ids[: self.card.instruction_tokens], self.model.eos_id]

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
        batch, mask = padded([soft_prompt.embeddings for soft_prompt in soft_prompts])
        return batch.to(self.device), mask.to(self.device)

    def n_read(self, soft_prompt: SoftPrompt) -> int:
        """Tokens that models are given to read a soft prompt: by this one, and by the subject for its hidden states."""
        hidden = self.model.hidden_states
        return soft_prompt.n_tokens * (1 if hidden is None else 2)


@torch.no_grad()
def translator_fingerprint(translator: Translator) -> str:
    """SHA-256 of weights that every training changes, as float32."""
    digest = hashlib.sha256()
    for tensor in translator.model.telling_weights():
        digest.update(tensor.to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def weighing_fingerprint(translator: Translator) -> str:
    """SHA-256 of all that texts are weighed by beside the translator's weights: its evidence and its follower."""
    digest = hashlib.sha256(repr(translator.card.evidence).encode())
    for name, factor in sorted((translator.follower_adapters or {}).items()):
        digest.update(name.encode() + factor.to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
