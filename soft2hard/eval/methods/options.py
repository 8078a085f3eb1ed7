"""The options of every method, with its name, source and needs: checked without PyTorch and without the method itself.

Defaults are those that the method's source published, where it published any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

from soft2hard.errors import UserError

CaseNeed = Literal["soft_prompt", "train", "validation", "labels", "instruction"]
BenchNeed = Literal["translator", "reference", "generator", "validation_cases"]
Need = CaseNeed | BenchNeed
"""What a method may need of a case (a soft prompt, examples, label words, the gold instruction) or of the bench."""

META_PROMPT = (
    "I gave a friend an instruction and five inputs. The friend read the instruction and wrote an output for every "
    "one of the inputs.\nHere are the input-output pairs:\n\n{examples}\n\nThe instruction was"
)
"""The request of arXiv 2205.10782, figure 2, with the example pairs in place of `{examples}`."""

REASONING = " Input: {input} Answer: To begin with, the possible answers are these:"
"""The text after the placeholders in the chain-of-thought prompt, in the form of the InSPEcT baseline of arXiv
2605.27642."""

_PUBLISHED_VOCABULARY = 50272  # OPT-125m, the policy LM whose k is published


@dataclass(frozen=True)
class Options:
    """The fields of a subclass are what a configuration may set."""

    name: ClassVar[str]
    """What configurations and tables call the method."""
    source: ClassVar[str]
    """The paper, with section or equation, that the method and its defaults follow."""
    needs: ClassVar[frozenset[Need]] = frozenset()

    def _check(self, *, counts: str = "", positive: str = "", weights: str = "", **choices: str) -> None:
        """Raise UserError where fields of these names are not at least 1, above 0, not negative, or one of the words
        given for a field."""
        for option in counts.split():
            self._require(getattr(self, option) >= 1, option, "It must be at least 1.")
        for option in positive.split():
            self._require(getattr(self, option) > 0, option, "It must be above 0.")
        for option in weights.split():
            self._require(getattr(self, option) >= 0, option, "It must not be negative.")
        for option, words in choices.items():
            self._require(getattr(self, option) in words.split(), option, f"It must be one of: {words}.")

    def _require(self, is_good: bool, option: str, remedy: str) -> None:
        if not is_good:
            raise UserError(f"{self.name}: {option} is {getattr(self, option)!r}.", remedy)


@dataclass(frozen=True)
class SoftOptions(Options):
    """The soft prompt itself, against which a translation is measured."""

    name: ClassVar[str] = "soft"
    source: ClassVar[str] = "prompt tuning (Lester et al. 2021, arXiv 2104.08691)"
    needs: ClassVar[frozenset[Need]] = frozenset({"soft_prompt"})


@dataclass(frozen=True)
class GoldOptions(Options):
    """The instruction that the task was written with."""

    name: ClassVar[str] = "gold"
    source: ClassVar[str] = "the task's reference instruction"
    needs: ClassVar[frozenset[Need]] = frozenset({"instruction"})


@dataclass(frozen=True)
class NoneOptions(Options):
    """Zero-shot: the input alone."""

    name: ClassVar[str] = "none"
    source: ClassVar[str] = "zero-shot, the template's body alone"


@dataclass(frozen=True)
class FewShotOptions(Options):
    """`k` training examples drawn at random for each task and seed, in the subject's own template."""

    k: int = 8
    """Examples shown; fewer where a task has fewer or the context has no room for more."""
    with_instruction: bool = False
    """Put the gold instruction before them."""

    name: ClassVar[str] = "few-shot"
    source: ClassVar[str] = "Brown et al. 2020 (arXiv 2005.14165)"
    needs: ClassVar[frozenset[Need]] = frozenset({"train"})

    def __post_init__(self) -> None:
        self._check(counts="k")


@dataclass(frozen=True)
class InductionOptions(Options):
    """`n` proposals from sets of `k` examples, the best of them by likelihood of the validation examples."""

    n: int = 20
    """Proposals a task; with 1, nothing is chosen."""
    k: int = 5
    """Examples shown for each proposal, drawn again for each."""
    meta_prompt: str = META_PROMPT
    """The request; `{examples}` stands for the pairs."""

    name: ClassVar[str] = "induction"
    source: ClassVar[str] = "Honovich et al. (arXiv 2205.10782), APE (arXiv 2211.01910, algorithm 1)"
    needs: ClassVar[frozenset[Need]] = frozenset({"train", "validation", "generator"})

    def __post_init__(self) -> None:
        self._check(counts="n k")
        if "{examples}" not in self.meta_prompt:
            raise UserError("induction: the meta prompt has no place for examples.", "Put {examples} where they go.")


@dataclass(frozen=True)
class NearestTokenOptions(Options):
    """Each virtual token's nearest neighbour in the frozen vocabulary, one after another, as text.

    Lester et al. measure cosine distance; Euclidean distance is the other reading in the literature (Dayton et al.;
    Lakkaraju et al. 2025).
    """

    distance: str = "cosine"
    """'cosine' or 'euclidean'."""
    top_k: int = 5
    """Neighbours of each position in the trace."""
    vocabulary: str = "text"
    """Tokens that count: 'all', 'not_special', or 'text', which leaves out unused rows of the table and tokens that
    decode to nothing readable as well."""

    name: ClassVar[str] = "nearest-token"
    source: ClassVar[str] = "Lester et al. 2021 (arXiv 2104.08691), section 7"
    needs: ClassVar[frozenset[Need]] = frozenset({"soft_prompt"})

    def __post_init__(self) -> None:
        self._check(counts="top_k", distance="cosine euclidean", vocabulary="text not_special all")


@dataclass(frozen=True)
class InspectOptions(Options):
    """InSPEcT; the pair of layers is the one whose descriptions of the bench's validation cases score best."""

    target: str = "classes_after"
    """The target prompt: demonstrations with their classes after or before the description, each said twice
    ('repeated'), or 'chain_of_thought'."""
    demonstrations: str | Sequence[str] = "built-in"
    """'built-in' (InSPEcT's own), 'validation' (made from the bench's validation tasks), or texts, as they are."""
    n_demonstrations: int = 3
    """Drawn at random by the seed."""
    separator: str = "|"
    """Between demonstrations; may be empty."""
    placeholder: str = "x"
    """A word that the subject reads as one token."""
    reasoning: str = REASONING
    """The text after the placeholders of 'chain_of_thought'; {input} is a training input of the task."""
    max_new_tokens: int = 60
    sources: Sequence[int] | None = None
    """Source layers; None: all. Layer l is what enters block l."""
    targets: Sequence[int] | None = None
    """Target layers, likewise."""
    n_validation: int = 32
    """Validation cases that choose a pair of layers."""

    name: ClassVar[str] = "inspect"
    source: ClassVar[str] = "InSPEcT (Ramati et al., arXiv 2410.11660, section 3); layers chosen on validation tasks"

    def __post_init__(self) -> None:
        styles = "classes_after classes_before repeated chain_of_thought"
        self._check(counts="n_demonstrations max_new_tokens n_validation", target=styles)
        if isinstance(self.demonstrations, str):
            self._check(demonstrations="built-in validation")
        if self.target == "repeated" and self.demonstrations == "built-in":
            raise UserError(
                f"{self.name}: there are no built-in demonstrations that repeat.", "Set demonstrations to 'validation'."
            )
        if self.target == "chain_of_thought" and "{input}" not in self.reasoning:
            raise UserError(f"{self.name}: reasoning has no {{input}}.", "Say where the input stands.")
        for option in ("demonstrations", "sources", "targets"):
            empty = getattr(self, option) is not None and not len(getattr(self, option))
            self._require(not empty, option, "Leave it out, or give at least one.")

    @property
    def needs(self) -> frozenset[Need]:
        """Depends on the options: validation cases to choose or to show, a training input to reason about."""
        chooses = len(self.sources or (0, 0)) > 1 or len(self.targets or (0, 0)) > 1
        return self._needs({"validation_cases"} if chooses else set())

    def _needs(self, more: set[Need]) -> frozenset[Need]:
        reasons = self.target == "chain_of_thought"
        shows = self.demonstrations == "validation" and not reasons
        return frozenset({"soft_prompt", *more, *(["validation_cases"] * shows), *(["train"] * reasons)})


@dataclass(frozen=True)
class InspectOracleOptions(InspectOptions):
    """InSPEcT at its upper bound: the pair of layers that suits each case best *by its own gold instruction*.

    Nobody could use it, as it sees the answer; it says how much of InSPEcT's loss is the choice of layers.
    """

    name: ClassVar[str] = "inspect-oracle"
    source: ClassVar[str] = "InSPEcT (Ramati et al., arXiv 2410.11660); ORACLE: layers chosen by each case's own answer"

    @property
    def needs(self) -> frozenset[Need]:
        """Depends on the options: validation cases to show, a training input to reason about."""
        return self._needs({"instruction"})


@dataclass(frozen=True)
class PezOptions(Options):
    """Hard Prompts Made Easy. Length, steps, batch and evaluation interval are those of the language-model experiments
    published with arXiv 2302.03668, learning rate and weight decay those of the published AdamW configuration.
    """

    n_tokens: int = 10
    """Tokens of the prompt; with `init` 'soft_prompt' it has as many as the soft prompt."""
    steps: int = 5000
    batch_size: int = 32
    """Examples a step."""
    lr: float = 0.1
    """AdamW's learning rate."""
    weight_decay: float = 0.1
    """AdamW's: a step shrinks the continuous copy by the factor 1 - lr * weight_decay."""
    unit: str = "absolute"
    """Unit of the learning rate: 1, as published, or the root mean square of the subject's 'embedding' entries, which
    suits subjects of any scale."""
    perplexity_weight: float = 0.0
    """Lambda of arXiv 2504.02144: the weight at which the log-perplexity, nats a token, is added to the loss."""
    perplexity_lm: str = "reference"
    """The model whose perplexity counts: the reference LM (the subject where there is none), or the 'subject'."""
    objective: str = "task"
    """'task': the loss on training examples; 'match': KL from the soft prompt's output distributions on their inputs,
    along the outputs that the subject writes under the soft prompt."""
    init: str = "vocabulary"
    """Where the continuous copy starts: at random tokens ('vocabulary'), or at the soft prompt ('soft_prompt')."""
    eval_every: int = 100
    """Steps between two looks at the validation examples."""
    max_new_tokens: int = 16
    """Longest output written under a soft prompt that is to be matched."""
    slots: int = 64
    """Cases searched at once."""

    name: ClassVar[str] = "pez"
    source: ClassVar[str] = "PEZ (arXiv 2302.03668, algorithm 1); perplexity term: arXiv 2504.02144"

    def __post_init__(self) -> None:
        self._check(
            counts="n_tokens steps batch_size eval_every max_new_tokens slots",
            positive="lr",
            weights="weight_decay perplexity_weight",
            unit="absolute embedding",
            objective="task match",
            init="vocabulary soft_prompt",
            perplexity_lm="reference subject",
        )

    @property
    def needs(self) -> frozenset[Need]:
        """Examples, and the soft prompt where the options ask for one."""
        follows = self.objective == "match" or self.init == "soft_prompt"
        return frozenset({"train", "validation", *(["soft_prompt"] * follows)})


@dataclass(frozen=True)
class PolicyOptions(Options):
    """A frozen policy LM with a small trained network before its output layer writes prompts and learns from rewards.

    The defaults are those published with RLPrompt (arXiv 2205.12548, section 3.1, appendix A, and its code for
    few-shot classification), but for `reverse`.
    """

    n_tokens: int = 5
    """Tokens of the prompt."""
    steps: int = 12000
    batch: int = 16
    """Prompts sampled a step."""
    examples: int = 32
    """Training examples that a prompt is rewarded on, drawn once for each task: 16 for each of two classes."""
    lr: float = 5e-5
    """Adam's learning rate."""
    clip: float = 5.0
    """The most that a gradient's norm may be."""
    hidden: int = 2048
    """Width of the network's hidden layer."""
    polyak: float = 0.001
    """Share of the way that the target network moves towards the network at every step."""
    reverse: float = 0.5
    """Weight of the path-consistency losses with network and target exchanged (Guo et al., arXiv 2106.07704)."""
    reward_scale: float = 5.0
    """Factor of the z-scores; the inverse of the entropy's weight."""
    right: float = 200.0
    """Lambda 2: times positive gaps."""
    wrong: float = 180.0
    """Lambda 1: times negative gaps."""
    reward: str = "auto"
    """'labels': the paper's reward by label words; 'outputs': its generalisation to any output; 'auto': by labels
    for tasks with label words that are not scored by exact match."""
    perplexity_weight: float = 0.0
    """Alpha of arXiv 2504.02144: the weight at which the prompt's perplexity is taken off the reward."""
    perplexity_lm: str = "reference"
    """The model whose perplexity counts: the reference LM (the subject where there is none), or the 'subject'."""
    policy: str | None = None
    """The frozen policy LM: None for the subject itself, 'reference', or another model with the subject's vocabulary,
    by name or folder."""
    start: str | None = None
    """The text that the policy LM reads first; None: its BOS token, or EOS where it has none."""
    eval_every: int = 10
    """Steps between two looks at the validation examples."""
    slots: int = 32
    """Policies trained at once."""

    def __post_init__(self) -> None:
        self._check(
            counts="n_tokens steps batch examples hidden eval_every slots",
            positive="lr clip reward_scale right wrong",
            weights="perplexity_weight",
            reward="auto labels outputs",
            perplexity_lm="reference subject",
        )
        for option in ("polyak", "reverse"):
            self._require(0 <= getattr(self, option) <= 1, option, "It must be from 0 to 1.")
        self._require(self.start != "", "start", "Give the policy LM a text to read first, or leave it out.")

    def n_allowed(self, vocab_size: int) -> int | None:
        """Number of tokens that the filter leaves at each position; None where there is no filter."""
        return None

    @property
    def needs(self) -> frozenset[Need]:
        """Examples, and label words where `reward` asks for them."""
        return frozenset({"train", "validation", *(["labels"] * (self.reward == "labels"))})


@dataclass(frozen=True)
class RLPromptOptions(PolicyOptions):
    """Soft Q-learning with path-consistency losses, piecewise gap rewards and z-scores."""

    top_k: int = 256
    """Tokens that are sampled from at each position: those with the highest Q-values."""

    name: ClassVar[str] = "rlprompt"
    source: ClassVar[str] = (
        "RLPrompt (arXiv 2205.12548, sections 2 and 3.1, and its code); perplexity term: arXiv 2504.02144"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(counts="top_k")


@dataclass(frozen=True)
class PinOptions(PolicyOptions):
    """Q-learning with sparse Tsallis entropy (q = 2, a sparsemax policy) over tokens that are not ignorable."""

    steps: int = 6000
    """As published."""
    reward_scale: float = 1.0
    """As published: z-scores as they are."""
    k: int = 10_000
    """A token is ignorable where its logit under the frozen policy LM is below the k-th largest. For vocabularies
    smaller than the published policy LM's, the same share of the vocabulary: k * size / 50272, rounded up."""

    name: ClassVar[str] = "pin"
    source: ClassVar[str] = "PIN (arXiv 2407.14733, section 4, and its code)"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(counts="k")

    def n_allowed(self, vocab_size: int) -> int:
        """Tokens left at each position: k, or as large a share of a smaller vocabulary."""
        return ceil(self.k * min(1.0, vocab_size / _PUBLISHED_VOCABULARY))


@dataclass(frozen=True)
class GreedyOptions(Options):
    """The translator's first text, unverified."""

    name: ClassVar[str] = "greedy"
    source: ClassVar[str] = "soft2hard translator, greedy decoding"
    needs: ClassVar[frozenset[Need]] = frozenset({"soft_prompt", "translator"})


@dataclass(frozen=True)
class TranslatedOptions(Options):
    """The candidate with the highest posterior on probe inputs (`soft2hard.translator.search`)."""

    n_candidates: int = 64
    n_probes: int = 32
    n_checks: int = 16
    refine_rounds: int = 2
    inputs: str = "examples"
    """Where probe inputs come from: 'examples' (the task's own inputs, without their outputs) or 'invented'."""

    name: ClassVar[str] = "translated"
    source: ClassVar[str] = "soft2hard translator with verification"
    needs: ClassVar[frozenset[Need]] = frozenset({"soft_prompt", "translator", "train", "validation"})

    def __post_init__(self) -> None:
        self._check(inputs="examples invented")
