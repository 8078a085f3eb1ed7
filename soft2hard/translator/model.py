"""The translator: a reader of soft prompts and a language model that writes, with tokenizer and card.

An architecture (`encoder_decoder`, `causal`) says how the language model reads and writes; it is imported when used.
"""

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput

from soft2hard.errors import UserError, first_line
from soft2hard.lm.loading import READING_ERRORS, Loading
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.prefix import roomy
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.names import folder_of, name_of
from soft2hard.translator.data import IGNORE, View, n_runs, padded, runs_of_like_length
from soft2hard.translator.follower import FOLLOWER_FILE, Follower, read_follower
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
_EPSILON = 1e-6

SoftPrompts = Float[Tensor, "batch n d_subject"]
"""Padded on the right."""
Mask = Int[Tensor, "batch n"] | Bool[Tensor, "batch n"]
"""Where a soft prompt has a vector."""
Labels = Int[Tensor, "batch length"]
"""Token ids of instructions with their ends; -100 where padded, on the right."""
Logits = Float[Tensor, "batch length vocab"]
"""For each label, given the soft prompt and the labels before it."""
_TOKENS_OF_GENERATION = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


class SoftPromptReader(nn.Module):
    """Maps soft-prompt vectors, and hidden states beside them, into the input space of a language model.

    `x -> (x / scale) W`, where `scale` is the subject's embedding scale and W starts as the identity times the model's
    own embedding scale where the widths agree, else as a random matrix. Each layer's hidden state is added, divided by
    its root mean square, through a matrix of its own that starts at zero: an untrained reader ignores hidden states.
    """

    def __init__(
        self,
        d_subject: int,
        d_model: int,
        subject_scale: float = 1.0,
        model_scale: float = 1.0,
        *,
        d_hidden: int = 0,
        n_layers: int = 0,
    ):
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(subject_scale)))
        self.projection = nn.Linear(d_subject, d_model, bias=False)
        self.of_layers = nn.ModuleList(nn.Linear(d_hidden, d_model, bias=False) for _ in range(n_layers))
        with torch.no_grad():
            if d_subject == d_model:
                self.projection.weight.copy_(torch.eye(d_model) * model_scale)
            else:
                self.projection.weight.normal_(std=model_scale * d_subject**-0.5)
            for layer in self.of_layers:
                layer.weight.zero_()

    @classmethod
    def between(cls, subject: Subject, lm: PreTrainedModel, hidden: "HiddenStates | None") -> "SoftPromptReader":
        """A new one, from a subject's soft prompts to a language model."""
        table = lm.get_input_embeddings().weight
        scales = [t.detach().float().square().mean().sqrt().item() for t in (subject.embedding, table)]
        sizes = {"d_hidden": hidden.d_hidden, "n_layers": len(hidden.layers)} if hidden else {}
        return cls(subject.d_model, table.shape[1], *scales, **sizes)

    @classmethod
    def saved(cls, card: TranslatorCard, weights: dict[str, Tensor]) -> "SoftPromptReader":
        """One of the saved one's sizes, to be filled with its weights."""
        n_layers = len(card.hidden_layers)
        d_hidden = weights["of_layers.0.weight"].shape[1] if n_layers else 0
        return cls(card.d_subject, weights["projection.weight"].shape[0], d_hidden=d_hidden, n_layers=n_layers)

    def forward(
        self,
        soft_prompts: SoftPrompts,
        hidden: Sequence[Float[Tensor, "batch n d_hidden"]] = (),
    ) -> Float[Tensor, "batch n d_model"]:
        read = self.projection(soft_prompts / self.scale)
        for projection, states in zip(self.of_layers, hidden, strict=True):
            rms = states.square().mean(-1, keepdim=True).add(_EPSILON).sqrt()
            read = read + projection(states / rms)
        return read


class HiddenStates:
    """The subject's hidden states at chosen layers over the positions of soft prompts.

    Layer 1 is the output of the first block; a soft prompt stands where it stands in use, after BOS and before the
    rest. Raises UserError for a layer that the subject has not.
    """

    def __init__(self, subject: Subject, layers: Sequence[int]):
        n_layers = subject.model.config.get_text_config().num_hidden_layers
        wrong = [layer for layer in layers if not 1 <= layer <= n_layers]
        if wrong or len(set(layers)) < len(layers):
            raise UserError(
                f"The hidden layers are {', '.join(map(str, layers))}; the subject '{subject.name}' has {n_layers}.",
                f"Give distinct layers from 1 to {n_layers}.",
            )
        self.subject, self.layers = subject, tuple(layers)

    @property
    def d_hidden(self) -> int:
        """Width of a hidden state."""
        return self(torch.zeros(1, 1, self.subject.d_model), torch.ones(1, 1, dtype=torch.long))[0].shape[-1]

    @torch.no_grad()
    def __call__(self, soft_prompts: SoftPrompts, mask: Mask) -> list[Float[Tensor, "batch n d_hidden"]]:
        """One tensor a layer, float32, on the device of `soft_prompts`; padding, on the right, is not attended to."""
        subject, home = self.subject, soft_prompts.device
        bos = subject.leading_embeddings
        read = torch.cat([bos.expand(len(soft_prompts), -1, -1), soft_prompts.to(bos)], 1)
        seen = torch.cat([mask.new_ones(len(mask), len(bos)), mask], 1).long().to(read.device)
        model = subject.model.get_encoder() if subject.is_encoder_decoder else subject.model.base_model
        extra = {"use_cache": False} if subject.continues_text else {}
        states = model(inputs_embeds=read, attention_mask=seen, output_hidden_states=True, **extra).hidden_states
        return [states[layer][:, len(bos) :].float().to(home) for layer in self.layers]


@dataclass(frozen=True)
class Memory:
    """Soft prompts as a translator has read them, ready to be written from."""

    states: Float[Tensor, "batch n d_model"]
    mask: Int[Tensor, "batch n"]
    cache: Cache | None = None
    """Keys and values of all places but the last, where a causal model has them."""
    cached: Int[Tensor, "batch"] | None = None
    """The row of the cache that each soft prompt's are."""

    def select(self, rows: Sequence[int]) -> "Memory":
        """These of the soft prompts; where nothing is cached, without places that are padding in all of them."""
        states, mask = self.states[rows], self.mask[rows]
        if self.cached is not None:
            return Memory(states, mask, self.cache, self.cached[rows])
        used = mask.bool().any(0)
        return Memory(states, mask) if used.all() else Memory(states[:, used], mask[:, used])

    def repeat(self, times: int) -> "Memory":
        """Each soft prompt `times` times, one after another."""
        states, mask = self.states.repeat_interleave(times, 0), self.mask.repeat_interleave(times, 0)
        return Memory(states, mask, self.cache, None if self.cached is None else self.cached.repeat_interleave(times))

    def own_cache(self, room: int, times: int = 1) -> Cache | None:
        """A cache with a row for each soft prompt, `times` times one after another, to which `room` tokens may be
        added."""
        return None if self.cached is None else roomy(self.cache, self.cached.repeat_interleave(times), room)


class TranslatorModel(nn.Module, ABC):
    """Reader and language model together, as the Trainer sees them."""

    n_start: ClassVar[int]
    """Tokens that stand before the first written one in the ids that logits processors are given."""
    beside_reader: ClassVar[tuple[str, ...]] = ()
    """Parameters of its own that are neither the reader's nor the language model's."""
    eos_id: int
    """The token that ends an instruction."""

    def __init__(self, reader: SoftPromptReader):
        super().__init__()
        self.reader = reader
        self.hidden_states: HiddenStates | None = None
        """Of the subject, which is no part of this model: neither trained nor saved with it."""
        # Shared tables stand under several names, which safetensors refuses to write.
        self.register_state_dict_post_hook(_drop_aliases)
        self.register_load_state_dict_pre_hook(_restore_left_out)

    @classmethod
    @abstractmethod
    def new(cls, subject: Subject, design: Design, hidden: HiddenStates | None) -> "Made":
        """An untrained one with its tokenizer, and the fields of the card that name its base."""

    @classmethod
    @abstractmethod
    def load(
        cls, folder: Path, card: TranslatorCard, reader: SoftPromptReader, base: str | None, subject: Subject | None
    ) -> "TranslatorModel":
        """The saved one, but for the weights in `READER_FILE`; see `Translator.from_pretrained`."""

    @abstractmethod
    def save_lm(self, folder: Path, dtype: torch.dtype | None) -> None:
        """Write what was trained of the language model into a folder."""

    @property
    @abstractmethod
    def lm(self) -> PreTrainedModel:
        """The language model that writes."""

    def to_train(self) -> None:
        """Take the precision that trains, where a saved one was loaded in another."""

    @abstractmethod
    def encode(self, soft_prompts: SoftPrompts, attention_mask: Mask) -> Memory:
        """Read soft prompts."""

    @abstractmethod
    def logits(self, memory: Memory, labels: Labels) -> Logits:
        """How likely each next token is."""

    @abstractmethod
    def generate(self, memory: Memory, **settings: object) -> Int[Tensor, "rows length"]:
        """The tokens that transformers' `generate` writes with these settings, from the first written one on."""

    @property
    def config(self) -> PretrainedConfig:
        """Of the language model; the Trainer and DeepSpeed look here."""
        return self.lm.config

    @property
    def room(self) -> int | None:
        """Rows that may be read at most beside the longest instruction; None where there is no bound."""
        return None

    @property
    def device(self) -> torch.device:
        return self.reader.projection.weight.device

    def forward(self, soft_prompts: SoftPrompts, attention_mask: Mask, labels: Labels) -> Seq2SeqLMOutput:
        """The mean cross-entropy of `labels` (-100 where padded), nats a token; and the logits, but in training.

        In training the batch is written in runs of instructions of like length: the loss is the same up to rounding.
        """
        memory, n_tokens = self.encode(soft_prompts, attention_mask), (labels != IGNORE).sum()
        if not self.training:
            logits = self.logits(memory, labels)
            return Seq2SeqLMOutput(loss=_summed_loss(logits, labels) / n_tokens, logits=logits)
        lengths = (labels != IGNORE).sum(1).tolist()
        losses = []
        for run in runs_of_like_length(_to_pad(lengths, memory), n_runs(len(lengths))):
            some = labels[run, : max(lengths[i] for i in run)]
            losses.append(_summed_loss(self.logits(memory.select(run), some), some))
        return Seq2SeqLMOutput(loss=torch.stack(losses).sum() / n_tokens)

    def read(self, soft_prompts: SoftPrompts, attention_mask: Mask) -> Float[Tensor, "batch n d_model"]:
        """Soft prompts, and the subject's hidden states over them if wanted, in the language model's input space."""
        hidden = self.hidden_states(soft_prompts, attention_mask) if self.hidden_states else ()
        return self.reader(soft_prompts, hidden).to(self.lm.dtype)

    def gradient_checkpointing_enable(self, **kwargs: object) -> None:
        """Trade time for memory in training, as the Trainer asks for by this name."""
        self.lm.gradient_checkpointing_enable(**kwargs)

    def aliases(self) -> dict[str, str]:
        """Second and further names of shared parameters, each with the first name."""
        first: dict[int, str] = {}
        named = self.named_parameters(remove_duplicate=False)
        return {name: first[id(p)] for name, p in named if first.setdefault(id(p), name) != name}

    def kept_elsewhere(self) -> dict[str, Tensor]:
        """Weights by name that this model has from another and never changes; they are not part of its state."""
        return {}

    def telling_weights(self) -> list[Tensor]:
        """Some of the weights, none of which any training leaves as it is: they tell translators apart."""
        return [*self.reader.parameters(), self.lm.get_input_embeddings().weight]

    def beside_lm(self) -> dict[str, Tensor]:
        """All weights that are neither the language model's nor its adapters', by their names in `READER_FILE`."""
        own = {name: getattr(self, name).detach() for name in self.beside_reader}
        return {name: tensor.contiguous() for name, tensor in (self.reader.state_dict() | own).items()}

    def load_beside_lm(self, weights: dict[str, Tensor]) -> None:
        """Fill in the weights that `beside_lm` gave."""
        for name in self.beside_reader:
            getattr(self, name).data.copy_(weights.pop(name))
        self.reader.load_state_dict(weights)


Made = tuple[TranslatorModel, PreTrainedTokenizerBase, dict[str, str]]


def plain_generation(model: PreTrainedModel) -> GenerationConfig:
    """A model's generation settings without those by which it would write something else than what is likeliest:
    penalties, forbidden tokens, sampling. What a model is published with is meant for chats."""
    return GenerationConfig(**{name: getattr(model.generation_config, name, None) for name in _TOKENS_OF_GENERATION})


def _to_pad(lengths: list[int], memory: Memory) -> list[int]:
    """What runs are formed by: lengths of instructions, and of what is read too where that differs more."""
    read = memory.mask.sum(1).tolist()
    if max(read) - min(read) <= max(lengths) - min(lengths):
        return lengths
    return [n + m for n, m in zip(lengths, read, strict=True)]


def _summed_loss(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def _drop_aliases(model: TranslatorModel, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name in (*model.aliases(), *model.kept_elsewhere()):
        state.pop(prefix + name, None)


def _restore_left_out(model: TranslatorModel, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name, tensor in model.kept_elsewhere().items():
        state.setdefault(prefix + name, tensor)
    for alias, name in model.aliases().items():
        if prefix + name in state:
            state.setdefault(prefix + alias, state[prefix + name])


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
