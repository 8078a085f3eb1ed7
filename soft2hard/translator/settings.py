"""What a translator is made of, its card when saved, how it is trained, and how soft prompts are translated."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from soft2hard.errors import UserError
from soft2hard.settings import Numbers, settings

if TYPE_CHECKING:
    from soft2hard.lm.subject import Subject

CARD_FILE = "soft2hard.json"
SCHEMA_VERSION = 1
MAX_INSTRUCTION_TOKENS = 64
"""Longest instruction, in tokens, of a translator whose card does not say: it is older than the choice."""
MIN_PROBES = 4
"""Inputs below which there is no telling two texts apart."""

META_PROMPT = (
    "I gave a friend an instruction and five inputs. The friend read the instruction and wrote an output for every "
    "one of the inputs.\nHere are the input-output pairs:\n\n{examples}\n\nThe instruction was"
)
"""The request of arXiv 2205.10782, figure 2, with the example pairs in place of `{examples}`."""

ProposerName = Literal["translator", "describe", "elicit", "search"]
"""Where candidate texts may come from: a translator that reads soft prompts; a language model that is shown what the
soft prompt does; the subject itself, asked by patching; a search under a prior of instructions."""

Architecture = Literal["encoder-decoder", "causal-lora"]
Reads = Literal["vectors", "examples", "both", "nothing"]
MadeCollection = Literal["lexical", "operations", "everyday"]
"""Collections that come with the package."""


@settings
class Design:
    """What a new translator is made of."""

    architecture: Literal["auto", "encoder-decoder", "causal-lora"] = "auto"
    """encoder-decoder: an encoder reads the soft prompt, a decoder writes. causal-lora: a frozen causal language
    model, by default the subject itself, continues the soft prompt under low-rank adapters. auto: encoder-decoder
    where there is a base or the subject is no causal language model that can read enough, else causal-lora, which
    learns more from as many pairs (docs/experiments.md)."""
    base: str | None = None
    """A checkpoint to start from, a folder or a name: an encoder-decoder (such as google/t5-v1_1-base), or a causal
    language model for causal-lora. By default an encoder-decoder starts from the subject's own weights, or as a small
    random T5 where it cannot, and causal-lora from the subject."""
    hidden_layers: Numbers = ()
    """Layers of the subject, such as 8,16, whose hidden states over the soft prompt are read beside its vectors. The
    translator then needs its subject to translate."""
    lora_rank: PositiveInt = 64
    """Rank of the adapters of causal-lora."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of an encoder-decoder that does not start from a base, and of adapters."""
    instruction_tokens: PositiveInt = 64
    """Longest instruction that is learned and written, in tokens; what is longer is cut."""
    reads: Reads = "vectors"
    """vectors: the soft prompt; examples: pairs of input and output instead, in training the task's own, in translation
    what the soft prompt writes for inputs of --examples; both: the vectors and then such pairs, or the vectors alone
    where there are no inputs; nothing: for comparison (soft2hard certify)."""
    shown: PositiveInt = 8
    """Examples that are read at most where examples are."""

    def architecture_for(self, subject: "Subject") -> Architecture:
        """The architecture, 'auto' decided."""
        if self.architecture != "auto":
            return self.architecture
        context = subject.context_length
        room = 2 * self.instruction_tokens  # for an instruction and a soft prompt as long
        reads_enough = subject.generates_from_vectors and (context is None or context >= room)
        return "causal-lora" if self.base is None and reads_enough else "encoder-decoder"


@settings
class TranslatorTraining:
    """How a translator is trained."""

    epochs: PositiveFloat = 30.0
    """Passes over the corpus; the learning rate falls to zero over them."""
    batch_size: PositiveInt = 128
    """Pairs a step, on each process."""
    lr: PositiveFloat = 2e-3
    """Learning rate of Muon and AdamW."""
    warmup_steps: NonNegativeInt = 100
    """Steps over which the learning rate rises."""
    paraphrase_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often a paraphrase stands in for the reference instruction."""
    noise: NonNegativeFloat = 0.1
    """Most noise on the soft prompts, in standard deviations of their entries."""
    patience: PositiveInt = 4
    """Epochs without a lower validation loss after which training stops."""
    pretrain_pairs: NonNegativeInt = 0
    """Imitation soft prompts (noised word embeddings) to train on first; 0 for none."""
    pretrain_tasks: NonNegativeInt = 0
    """Training tasks (of `pretrain_from`) of which the labelled examples alone are read first, for a translator that
    reads examples, too; 0 for none. No soft prompt is tuned for them."""
    least_learned: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Leave out tasks of which tuning took away a smaller share of the initial validation loss: a soft prompt that has
    learned nothing teaches a translator to guess."""
    apart_from_real: bool = False
    """Leave out tasks that are like a validation or test task of the collection real-tasks (docs/datasets.md)."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the corpus's tasks that is trained on, drawn by the seed: how much do more tasks help?"""
    recompute: bool = False
    """Compute the inside of each layer of the translator again in the backward pass (gradient checkpointing): much
    less memory, a third more time."""
    bf16: bool = True
    """Compute in bfloat16 where the machine has it."""
    deepspeed: str | None = None
    """A DeepSpeed configuration: 'zero1', 'zero2', 'zero3', 'zero2-offload', 'zero3-offload' or the path of a JSON
    file; AdamW then takes the place of Muon."""
    seed: int = 0
    """Seed of the order of pairs, the choice of paraphrases, noise and dropout."""
    pretrain_from: Annotated[tuple[MadeCollection, ...], Field(min_length=1)] = ("lexical",)
    """Collections that the tasks of `pretrain_tasks` come from, in equal parts, as are the families of each."""
    follower_steps: NonNegativeInt = 0
    """Steps of 64 examples in which a follower is taught, after the translator, on the tasks that it has read: a copy
    of the subject that does what texts say, by which verification tells better which text is right; 0 for none. For a
    causal subject and a translator that reads examples."""


@settings
class TranslateConfig:
    """How soft prompts are translated."""

    n_candidates: PositiveInt = 64
    """Candidates asked of the translator for each soft prompt."""
    n_probes: PositiveInt = 32
    """Inputs on which candidates are compared with the soft prompt, to choose among them."""
    n_checks: NonNegativeInt = 16
    """Further inputs on which the chosen text alone is judged: the verdict of inputs that chose it would flatter it.
    Of few inputs the first eight choose (half, of fewer than 16), the next 16 judge; further ones are shared."""
    refine_rounds: NonNegativeInt = 2
    """Rounds of local search around the best candidates where a translator proposes; it ends early when nothing
    improves."""
    max_new_tokens: PositiveInt | None = None
    """Longest output the subject may write for an input, in tokens; by default 16, and 64 where most outputs under a
    soft prompt do not end within 16."""
    seed: int = 0
    """Seed of the candidates and of invented inputs."""
    verify: bool = True
    """Run candidates beside the soft prompt on the subject, and choose and judge by that. Without, no subject is
    needed, and the translator's first guess is given with the verdict 'unverified'."""
    propose: tuple[ProposerName, ...] = ()
    """Where candidate texts come from: translator, describe, elicit, search, or several of them. By default the
    translator where one fits the soft prompt's subject, else that of SmolLM2, which reads what the soft prompt does,
    and describe; describe and search where it cannot be fetched."""
    n_descriptions: PositiveInt = 32
    """Candidates asked of the describer for each soft prompt."""
    n_layers: PositiveInt = 6
    """Source layers, and target layers, under whose pairs the subject is asked by elicit."""
    n_samples: PositiveInt = 128
    """Texts drawn from the prior, from which the search starts beside those of the other proposers."""
    search_texts: PositiveInt = 96
    """Further texts of each round of the search; it goes on from the best twelfth as many."""
    search_rounds: NonNegativeInt = 6
    """Rounds of the search at most; it ends early when none of the best changes."""
    demonstrations: NonNegativeInt = 0
    """Pairs of input and output under the soft prompt that a second text has besides the instruction; 0 for none."""
    max_seconds: PositiveFloat | None = None
    """Time after which no further texts are proposed or run, for all soft prompts: the best so far are judged."""
    max_calls: PositiveInt | None = None
    """Sequences that texts may take beside each soft prompt until its search ends likewise; what is read and written
    before texts are run does not count."""


# --- the card of a saved translator --------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """How verification reads what a subject does under a text, chosen on validation tasks (`eval.calibration`)."""

    weight: float | None = 1.0
    """Of the summed KL(soft || text) against log p(text | soft prompt): 1 where the subject follows texts, towards 0
    where what it does under them is noise. None: not known; how much the best text explains tells it
    (`translator.search.weight_by`)."""
    shots: int = 0
    """Pairs of input and output under the soft prompt that stand before the input beside every candidate alike, for
    subjects that follow no text alone."""
    explained_by_gold: float | None = None
    """Median share that reference instructions explain of what the soft prompts of validation tasks do
    (`verification.explained_share`): about as much as any text can on this subject. None where it was not measured."""
    n_tasks: int = 0
    """Validation tasks that it was chosen on."""
    alone: float = 0.5
    """Share of what the vectors alone say in log p(text | soft prompt), where a translator reads both them and what the
    soft prompt does; the rest is said by both together."""
    consensus: float = 0.0
    """Nats that a candidate's expected ROUGE-L with the right text counts, the others standing for it with their
    posterior (`translator.search.with_consensus`): what many likely texts say in part is more often right than the one
    likeliest text."""
    follower: float = 0.0
    """Of the follower's log p(outputs | text, inputs) of what the soft prompt wrote, beside log p(text | soft prompt)
    (`translator.follower`)."""


@dataclass(frozen=True)
class TranslatorCard:
    """Identity of the subject a translator is for, and where it comes from."""

    subject: str
    """Name or path of the subject."""
    fingerprint: str
    """`Subject.fingerprint` of it."""
    d_subject: int
    """Width of its soft prompts."""
    architecture: Architecture = "encoder-decoder"
    hidden_layers: tuple[int, ...] = ()
    """Layers of the subject whose hidden states it reads beside the soft prompt's vectors."""
    base: str | None = None
    """Causal LM under a LoRA translator's adapters: a name, or a path on the machine it was trained on."""
    base_fingerprint: str | None = None
    """`Subject.fingerprint` of that."""
    instruction_tokens: int = MAX_INSTRUCTION_TOKENS
    """Longest instruction that it has learned and writes, in tokens."""
    reads: Reads = "vectors"
    """What it reads, see `Design.reads`."""
    shown: int = 8
    """Examples of each task that it reads, where it reads examples."""
    evidence: Evidence = Evidence()
    """How far its subject's reactions to texts are to be believed."""
    training: dict = field(default_factory=dict)
    """Settings, data, versions and scores of the training, as plain JSON."""

    @property
    def reads_examples(self) -> bool:
        """Whether pairs of input and output are read, by themselves or beside vectors."""
        return self.reads in ("examples", "both")


def write_card(folder: Path, card: TranslatorCard) -> None:
    (folder / CARD_FILE).write_text(json.dumps({"schema_version": SCHEMA_VERSION} | asdict(card), indent=2))


def read_card(folder: Path) -> TranslatorCard:
    """Raises UserError where the folder holds no translator, or one of a later version."""
    path = folder / CARD_FILE
    if not path.exists():
        raise UserError(f"'{folder}' is not a translator: it has no {CARD_FILE}.", "Make one with soft2hard train.")
    try:
        content = json.loads(path.read_text())
        if (schema := content["schema_version"]) > SCHEMA_VERSION:
            raise UserError(f"'{folder}' was saved by a later soft2hard (schema {schema}).", "Update soft2hard.")
        known = {f.name: content[f.name] for f in fields(TranslatorCard) if f.name in content}
        evidence = Evidence(**known.get("evidence", {}))
        return TranslatorCard(**known | {"hidden_layers": tuple(known.get("hidden_layers", ())), "evidence": evidence})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged.", "Train or copy the translator again.") from error
