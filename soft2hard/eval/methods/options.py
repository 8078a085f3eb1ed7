"""The options of every method, with its name, source and needs: checked without PyTorch and without the method itself.

Defaults are those that the method's source published, where it published any.
"""

from collections.abc import Iterable
from math import ceil
from typing import Annotated, Literal

from annotated_types import Interval, MinLen
from pydantic import FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, StrictBool

from soft2hard.settings import settings
from soft2hard.translator.settings import META_PROMPT, ProposerName, TranslateConfig

CaseNeed = Literal["soft_prompt", "train", "validation", "labels", "instruction", "wanted"]
BenchNeed = Literal["translator", "reference", "generator", "encoder", "validation_cases", "style"]
Need = CaseNeed | BenchNeed
"""What a method may need of a case (a soft prompt, examples, label words, the gold instruction, a style to write in) or
of the bench."""

REASONING = " Input: {input} Answer: To begin with, the possible answers are these:"
"""The text after the placeholders in the chain-of-thought prompt, in the form of the InSPEcT baseline of arXiv
2605.27642."""

_PUBLISHED_VOCABULARY = 50272  # OPT-125m, the policy LM whose k is published

Selection = Literal["score", "rouge1", "class_rate", "cosine"]
"""By what InSPEcT chooses a pair of layers."""
Share = Annotated[float, Interval(ge=0, le=1)]
Layers = Annotated[tuple[int, ...], MinLen(1)] | None
Reward = Literal["auto", "labels", "outputs", "style"]
Judge = Literal["reference", "subject"]
"""The model whose perplexity counts: the reference LM (the subject where there is none), or the subject."""
Roles = Literal["both", "read", "predicted"]
"""Through which of a token's two roles the gradient of a prompt's fluency flows: what later tokens are predicted from,
what is itself predicted, or both."""
Aim = Literal["maximise", "minimise"]
"""Whether a prompt is wanted under which the task is done well, or one under which it is done badly."""

_PUBLISHED_PEZ = {"adamw": (0.1, 0.1, None), "adafactor": (0.3, 0.0, 1.0)}
"""Learning rate, weight decay and bound on the gradient that were published with each optimizer of PEZ."""


@settings
class SoftOptions:
    """The soft prompt itself, against which a translation is measured."""

    name = "soft"
    source = "prompt tuning (Lester et al. 2021, arXiv 2104.08691)"
    needs = frozenset({"soft_prompt"})


@settings
class GoldOptions:
    """The instruction that the task was written with."""

    name = "gold"
    source = "the task's reference instruction"
    needs = frozenset({"instruction"})


@settings
class NoneOptions:
    """Zero-shot: the input alone."""

    name = "none"
    source = "zero-shot, the template's body alone"
    needs = frozenset()


@settings
class FewShotOptions:
    """`k` training examples drawn at random for each task and seed, in the subject's own template."""

    k: PositiveInt = 8
    """Examples shown; fewer where a task has fewer or the context has no room for more."""
    with_instruction: StrictBool = False
    """Put the gold instruction before them."""

    name = "few-shot"
    source = "Brown et al. 2020 (arXiv 2005.14165)"
    needs = frozenset({"train"})


@settings
class InfluenceOptions:
    """`k` training examples chosen by their influence on the soft prompt, a product of gradients."""

    k: PositiveInt = 8
    """Examples shown; fewer where a task has fewer or the context has no room for more."""
    rank: Literal["most", "least", "opposed"] = "most"
    """most: the examples with the highest influence, whose own steps lower the validation loss most; opposed: those
    with the lowest, which is negative where a step raises that loss, as of wrong labels; least: those with the
    influence nearest to 0."""

    name = "few-shot-influence"
    source = "an open question of arXiv 2504.02144; influence as in TracIn (arXiv 2002.08484)"
    needs = frozenset({"train", "validation", "soft_prompt"})


def _changed(options: object, names: Iterable[str]) -> list[str]:
    """Those of some options that are not at their defaults."""
    return [name for name in names if getattr(options, name) != type(options).__dataclass_fields__[name].default]


def _check_meta_prompt(text: str) -> None:
    if "{examples}" not in text:
        raise ValueError("the meta prompt has no place for examples; put {examples} where they go")


@settings
class InductionOptions:
    """`n` proposals from sets of `k` examples, the best of them by likelihood of the validation examples."""

    n: PositiveInt = 20
    """Proposals a task; with 1, nothing is chosen."""
    k: PositiveInt = 5
    """Examples shown for each proposal, drawn again for each."""
    meta_prompt: str = META_PROMPT
    """The request; `{examples}` stands for the pairs."""

    name = "induction"
    source = "Honovich et al. (arXiv 2205.10782), APE (arXiv 2211.01910, algorithm 1)"
    needs = frozenset({"train", "validation", "generator"})

    def __post_init__(self) -> None:
        _check_meta_prompt(self.meta_prompt)


@settings
class SearchOptions:
    """What the prompt optimisers of other packages have in common."""

    max_metric_calls: PositiveInt = 150
    """Answers of the subject that a search may ask for."""
    start: Literal["nothing", "gold", "translation"] = "nothing"
    """Where it starts: a sentence that says nothing, the gold instruction, or the translator's first text."""
    meta_prompt: str | None = None
    """The request to a generator that is no chat model, with `{examples}` in the place of training pairs; None: the
    package's own request."""

    def __post_init__(self) -> None:
        if self.meta_prompt is not None:
            _check_meta_prompt(self.meta_prompt)

    @property
    def needs(self) -> frozenset[Need]:
        """A translator and soft prompts only where it starts from them."""
        of_start = {"translation": {"translator", "soft_prompt"}, "gold": {"instruction"}, "nothing": set()}
        return frozenset({"train", "validation", "generator", *of_start[self.start]})


@settings
class GepaOptions(SearchOptions):
    """Reflection on wrong answers by the generator, which rewrites the prompt; the package `gepa` at its settings."""

    name = "gepa"
    source = "GEPA (Agrawal et al. 2025, arXiv 2507.19457), package gepa"


@settings
class MiproOptions(SearchOptions):
    """Instructions that the generator proposes, and demonstrations that the subject got right, combined by a Bayesian
    search; the package `dspy` at the settings that it calls light."""

    name = "mipro"
    source = "MIPROv2 (Opsahl-Ong et al. 2024, arXiv 2406.11695), package dspy"


@settings
class NearestTokenOptions:
    """Each virtual token's nearest neighbour in the frozen vocabulary, one after another, as text.

    Lester et al. measure cosine distance; Euclidean distance is the other reading in the literature (Dayton et al.;
    Lakkaraju et al. 2025).
    """

    distance: Literal["cosine", "euclidean"] = "cosine"
    top_k: PositiveInt = 5
    """Neighbours of each position in the trace."""
    vocabulary: Literal["text", "not_special", "all"] = "text"
    """Tokens that count: 'all', 'not_special', or 'text', which leaves out unused rows of the table and tokens that
    decode to nothing readable as well."""

    name = "nearest-token"
    source = "Lester et al. 2021 (arXiv 2104.08691), section 7"
    needs = frozenset({"soft_prompt"})


@settings
class InspectOptions:
    """InSPEcT; the pair of layers is the one whose descriptions of the bench's validation cases score best."""

    target: Literal["classes_after", "classes_before", "repeated", "chain_of_thought"] = "classes_after"
    """The target prompt: demonstrations with their classes after or before the description, each said twice
    ('repeated'), or 'chain_of_thought'."""
    demonstrations: Literal["built-in", "validation"] | Annotated[tuple[str, ...], MinLen(1)] = "built-in"
    """'built-in' (InSPEcT's own), 'validation' (made from the bench's validation tasks), or texts, as they are."""
    n_demonstrations: PositiveInt = 3
    """Drawn at random by the seed."""
    separator: str = "|"
    """Between demonstrations; may be empty."""
    placeholder: str = "x"
    """A word that the subject reads as one token."""
    reasoning: str = REASONING
    """The text after the placeholders of 'chain_of_thought'; {input} is a training input of the task."""
    max_new_tokens: PositiveInt = 60
    sources: Layers = None
    """Source layers; None: all. Layer l is what enters block l; the released code counts what leaves one, so that its
    layer l is l + 1 here."""
    targets: Layers = None
    """Target layers, likewise."""
    entry: Literal["embeddings", "first_block"] = "embeddings"
    """Where the soft prompt enters its own pass: 'embeddings', as it was tuned, or 'first_block', as in the released
    code: in the place of the first block's output, so that source layers begin at 1."""
    cut: Literal["first_stop", "released"] = "first_stop"
    """Which part of what the subject writes is the description: up to the first stop, or as in the released code, where
    writing goes on to `max_new_tokens`, and the first stretch between stops that ends after a fifth of it counts."""
    select: Selection = "score"
    """What chooses the pair of layers: 'rouge1' with the instruction (its best paraphrase, without stop words, as in
    the released code), 'class_rate', 'cosine' of sentence embeddings with the instruction (the run's encoder), or
    'score', the mean of ROUGE-1 and class rate."""
    n_validation: PositiveInt = 32
    """Validation cases that choose a pair of layers."""

    name = "inspect"
    source = "InSPEcT (Ramati et al., arXiv 2410.11660, section 3); layers chosen on validation tasks"

    def __post_init__(self) -> None:
        if self.target == "repeated" and self.demonstrations == "built-in":
            raise ValueError("there are no built-in demonstrations that repeat; set demonstrations to 'validation'")
        if self.target == "chain_of_thought" and "{input}" not in self.reasoning:
            raise ValueError("reasoning has no {input}; say where the input stands")
        if self.entry == "first_block" and 0 in (self.sources or ()):
            raise ValueError("source layer 0 knows nothing of a soft prompt that enters behind the first block")

    @property
    def needs(self) -> frozenset[Need]:
        """Depends on the options: validation cases to choose or to show, a training input to reason about."""
        chooses = len(self.sources or (0, 0)) > 1 or len(self.targets or (0, 0)) > 1
        return self._needs({"validation_cases"} if chooses else set())

    def _needs(self, more: set[Need]) -> frozenset[Need]:
        reasons = self.target == "chain_of_thought"
        shows = self.demonstrations == "validation" and not reasons
        given = {"validation_cases": shows, "train": reasons, "encoder": self.select == "cosine"}
        return frozenset({"soft_prompt", *more, *(need for need, is_one in given.items() if is_one)})


@settings
class InspectOracleOptions(InspectOptions):
    """InSPEcT at its upper bound: the pair of layers that suits each case best *by its own gold instruction*.

    Nobody could use it, as it sees the answer; it says how much of InSPEcT's loss is the choice of layers. The released
    code reports this alone: the best ROUGE-1 and the best class rate over all pairs (`max_rouge1`, `max_class_rate`).
    """

    name = "inspect-oracle"
    source = "InSPEcT (Ramati et al., arXiv 2410.11660); ORACLE: layers chosen by each case's own answer"

    @property
    def needs(self) -> frozenset[Need]:
        """Depends on the options: validation cases to show, a training input to reason about."""
        return self._needs({"labels" if self.select == "class_rate" else "instruction"})


@settings
class PezOptions:
    """Hard Prompts Made Easy. Length, steps, batch and evaluation interval are those of the language-model experiments
    published with arXiv 2302.03668; their optimizer is 'adafactor', while 'adamw' is that of the published
    configuration for images.
    """

    n_tokens: PositiveInt | Literal["soft_prompt"] = 10
    """Tokens of the prompt, or as many as the 'soft_prompt' has; with `init` 'soft_prompt' the latter in any case."""
    steps: PositiveInt = 5000
    batch_size: PositiveInt = 32
    """Examples a step."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """'adamw', or 'adafactor' without relative steps, as in the published code for language models."""
    lr: PositiveFloat | None = None
    """Learning rate; None: as published, 0.1 with adamw and 0.3 with adafactor."""
    weight_decay: NonNegativeFloat | None = None
    """A step shrinks the continuous copy by the factor 1 - lr * weight_decay; None: as published, 0.1 with adamw and 0
    with adafactor."""
    clip: PositiveFloat | None = None
    """The most that the norm of a prompt's gradient may be; None: as published, 1 with adafactor and no bound with
    adamw."""
    unit: Literal["absolute", "embedding"] = "absolute"
    """Unit of the learning rate: 1, as published, or the root mean square of the subject's 'embedding' entries, which
    suits subjects of any scale."""
    perplexity_weight: NonNegativeFloat = 0.0
    """Lambda of arXiv 2504.02144: the weight at which the prompt's `fluency` term is added to the loss."""
    perplexity_lm: Judge = "reference"
    fluency: Literal["log_perplexity", "perplexity"] = "log_perplexity"
    """The term: 'log_perplexity', nats a token, as in the code of arXiv 2302.03668, or the 'perplexity' itself."""
    fluency_at: Literal["projection", "copy"] = "projection"
    """Where its gradient is taken: at the 'projection' to tokens, as that of the loss, or at the continuous 'copy'."""
    fluency_roles: Roles = "both"
    """'read' is that of the published code."""
    aim: Aim = "maximise"
    """'minimise' looks for the fluent prompt with the highest loss."""
    objective: Literal["task", "match"] = "task"
    """'task': the loss on training examples; 'match': KL from the soft prompt's output distributions on their inputs,
    along the outputs that the subject writes under the soft prompt."""
    init: Literal["vocabulary", "soft_prompt"] = "vocabulary"
    """Where the continuous copy starts: at random tokens ('vocabulary'), or at the soft prompt ('soft_prompt')."""
    eval_every: PositiveInt = 100
    """Steps between two looks at the validation examples."""
    max_new_tokens: PositiveInt = 16
    """Longest output written under a soft prompt that is to be matched."""
    slots: PositiveInt = 64
    """Cases searched at once."""

    name = "pez"
    source = "PEZ (arXiv 2302.03668, algorithm 1); perplexity term: arXiv 2504.02144"

    @property
    def needs(self) -> frozenset[Need]:
        """Examples, and the soft prompt where the options ask for one."""
        follows = self.objective == "match" or "soft_prompt" in (self.init, self.n_tokens)
        return frozenset({"train", "validation", *(["soft_prompt"] * follows)})

    def __post_init__(self) -> None:
        of_fluency = ("fluency", "fluency_at", "fluency_roles")
        if not self.perplexity_weight and (changed := _changed(self, of_fluency)):
            raise ValueError(f"{changed[0]} does nothing with a perplexity_weight of 0")

    @property
    def stepping(self) -> tuple[float, float, float | None]:
        """Learning rate, weight decay and bound on the gradient: those given, or as published with the optimizer."""
        given = (self.lr, self.weight_decay, self.clip)
        return tuple(p if g is None else g for g, p in zip(given, _PUBLISHED_PEZ[self.optimizer], strict=True))


@settings
class PolicyTraining:
    """A frozen policy LM with a small trained network before its output layer writes prompts and learns from rewards.

    The defaults are those published with RLPrompt (arXiv 2205.12548, section 3.1, appendix A, and its code for
    few-shot classification), but for `reverse`.
    """

    n_tokens: PositiveInt = 5
    """Tokens of the prompt."""
    steps: PositiveInt = 12000
    batch: PositiveInt = 16
    """Prompts sampled a step."""
    lr: PositiveFloat = 5e-5
    """Adam's learning rate."""
    clip: PositiveFloat = 5.0
    """The most that a gradient's norm may be."""
    hidden: PositiveInt = 2048
    """Width of the network's hidden layer."""
    polyak: Share = 0.001
    """Share of the way that the target network moves towards the network at every step."""
    reverse: Share = 0.5
    """Weight of the path-consistency losses with network and target exchanged (Guo et al., arXiv 2106.07704). The
    published code of RLPrompt and PIN leaves them out: 0. Without them the losses hold Q-values only less the value of
    their state, and nothing moves the level of a state's Q-values (recipes/pin-ablations.yaml)."""
    reward_scale: PositiveFloat = 5.0
    """Factor of the z-scores; the inverse of alpha, the entropy's weight."""
    reward_shift: FiniteFloat = 0.0
    """Added to them."""
    policy: str | None = None
    """The frozen policy LM, of any vocabulary: None for the subject itself, 'reference', or another model by name or
    folder. One of another vocabulary must write all letters and digits of the subject's tokens."""
    start: Annotated[str, MinLen(1)] | None = None
    """The text that the policy LM reads first; None: its BOS token, or EOS where it has none."""
    eval_every: PositiveInt = 10
    """Steps between two looks at the validation examples."""
    warm_up: Share = 0.0
    """Share of the steps, the first ones, whose prompts are drawn at random; 0: none, as published."""
    mutate: Share = 0.0
    """Share of the prompts of every later step that are one of the 8 best so far with another token in one place;
    0: none, as published."""

    def n_allowed(self, vocab_size: int) -> int | None:
        """Number of tokens that the filter leaves at each position; None where there is no filter."""
        return None


_OF_STYLE = ("sentences", "bootstraps", "fixed_sentences")
_OF_OUTPUTS = ("examples", "right", "wrong", "reward_form", "accuracy_weight", "aim")
"""Options of `PolicyOptions` that only the reward 'style', or only the others, look at."""


@settings
class PolicyOptions(PolicyTraining):
    """Policies that write prompts for tasks, with the rewards of RLPrompt (arXiv 2205.12548, section 3.1)."""

    examples: PositiveInt = 32
    """Training examples that a prompt is rewarded on, drawn once for each task: 16 for each of two classes."""
    right: PositiveFloat = 200.0
    """Lambda 2: times positive gaps."""
    wrong: PositiveFloat = 180.0
    """Lambda 1: times negative gaps."""
    reward: Reward = "auto"
    """'labels': the paper's reward by label words; 'outputs': its generalisation to any output; 'auto': by labels
    for tasks with label words that are not scored by exact match; 'style': the paper's reward for text style transfer,
    from sentences without pairs, by the evaluation's classifier and encoder."""
    sentences: PositiveInt = 2
    """With reward 'style': sentences a step, among which its prompts are shared out; two prompts each at least."""
    bootstraps: PositiveInt = 4
    """With reward 'style': how often the best of as many samples as the evaluation's style says is taken; their mean
    counts."""
    fixed_sentences: StrictBool = False
    """With reward 'style': every prompt is tried on the same sentences of its task, so that rewards of all steps can be
    compared; else each step has others, as published, and a prompt is tried on one of them."""
    keep: PositiveInt = 1
    """Sampled prompts with the highest rewards that are tried on the validation examples in the end."""
    reward_form: Literal["gap", "cross_entropy"] = "gap"
    """'gap': the paper's piecewise gap of probabilities; 'cross_entropy': the mean log-probability of the right label
    among all, or of the right output a token, nats (of arXiv 2504.02144)."""
    accuracy_weight: NonNegativeFloat = 1.0
    """Weight of this reward beside that of perplexity; with 0 the task counts for nothing (arXiv 2504.02144)."""
    aim: Aim = "maximise"
    """'minimise' takes this reward off instead of adding it."""
    perplexity_weight: NonNegativeFloat = 0.0
    """Alpha of arXiv 2504.02144: the weight at which the prompt's perplexity is taken off the reward."""
    perplexity_lm: Judge = "reference"
    slots: PositiveInt = 32
    """Policies trained at once."""

    @property
    def needs(self) -> frozenset[Need]:
        """Examples, and label words where `reward` asks for them; or a style and what tells it."""
        if self.reward == "style":
            return frozenset({"validation", "wanted", "style"})
        return frozenset({"train", "validation", *(["labels"] * (self.reward == "labels"))})

    def __post_init__(self) -> None:
        if not (self.accuracy_weight or self.perplexity_weight):
            raise ValueError("accuracy_weight and perplexity_weight are both 0, so that nothing is rewarded")
        if self.reward == "style" and 2 * self.sentences > self.batch:
            raise ValueError(f"{self.sentences} sentences need a batch of {2 * self.sentences} prompts, two each")
        if self.reward == "style" and not self.fixed_sentences and (self.mutate or self.keep > 1):
            raise ValueError("mutate and keep compare rewards of all steps: with reward style set fixed_sentences")
        idle = _OF_OUTPUTS if self.reward == "style" else _OF_STYLE
        if changed := _changed(self, idle):
            raise ValueError(f"{changed[0]} does nothing with the reward '{self.reward}'")
        if self.aim == "minimise" and not self.accuracy_weight:
            raise ValueError("aim does nothing with an accuracy_weight of 0")


@settings
class RLPromptOptions(PolicyOptions):
    """Soft Q-learning with path-consistency losses, piecewise gap rewards and z-scores."""

    top_k: PositiveInt = 256
    """Tokens that are sampled from at each position: those with the highest Q-values."""

    name = "rlprompt"
    source = "RLPrompt (arXiv 2205.12548, sections 2 and 3.1, and its code); perplexity term: arXiv 2504.02144"


@settings
class PinOptions(PolicyOptions):
    """Q-learning with sparse Tsallis entropy (q = 2, a sparsemax policy) over tokens that are not ignorable."""

    steps: PositiveInt = 6000
    """As published."""
    reward_scale: PositiveFloat = 1.0
    """As published (alpha = 1): z-scores as they are."""
    k: PositiveInt = 10_000
    """A token is ignorable where its logit under the frozen policy LM is below the k-th largest. For vocabularies
    smaller than the published policy LM's, the same share of the vocabulary: k * size / 50272, rounded up."""

    name = "pin"
    source = "PIN (arXiv 2407.14733, section 4, and its code)"

    def n_allowed(self, vocab_size: int) -> int:
        """Tokens left at each position: k, or as large a share of a smaller vocabulary."""
        return n_not_ignorable(self.k, vocab_size)


def n_not_ignorable(k: int, vocab_size: int) -> int:
    """PIN's k for a vocabulary: k, or as large a share of one that is smaller than the published policy LM's."""
    return ceil(k * min(1.0, vocab_size / _PUBLISHED_VOCABULARY))


@settings
class GreedyOptions:
    """The translator's first text, unverified."""

    translator: str | None = None
    """Another translator than the evaluation's: a folder or a name. One that was trained with --reads examples, both
    or nothing is given these."""
    outputs: Literal["soft_prompt", "task"] = "soft_prompt"
    """Of the examples that it is given: what the soft prompt writes for their inputs, or the task's own, which no
    translation has: for comparison."""
    vectors: bool = True
    """Whether a translator that reads both is also given the vectors. Without them it reads what the soft prompt does,
    as it does of soft prompts of a subject that it was not trained for."""

    name = "greedy"
    source = "soft2hard translator, greedy decoding"

    @property
    def needs(self) -> frozenset[Need]:
        """The evaluation's translator only where none is named."""
        return frozenset({"soft_prompt"} | ({"translator"} if self.translator is None else set()))


@settings
class TranslatedOptions:
    """The candidate with the highest posterior on probe inputs (`soft2hard.translator.search`)."""

    n_candidates: PositiveInt = 64
    n_probes: PositiveInt = 32
    n_checks: NonNegativeInt = 16
    refine_rounds: NonNegativeInt = 2
    inputs: Literal["examples", "invented"] = "examples"
    """Where probe inputs come from: 'examples' (the task's own inputs, without their outputs) or 'invented'."""
    propose: tuple[ProposerName, ...] = ("translator",)
    """Where candidates come from (see `TranslateConfig.propose`); no translator is needed where it is not named."""
    n_descriptions: PositiveInt = TranslateConfig.n_descriptions
    n_layers: PositiveInt = TranslateConfig.n_layers
    n_samples: PositiveInt = TranslateConfig.n_samples
    search_texts: PositiveInt = TranslateConfig.search_texts
    search_rounds: NonNegativeInt = TranslateConfig.search_rounds
    demonstrations: NonNegativeInt = 0
    """Pairs of input and output under the soft prompt that stand behind the instruction; 0 for none."""
    translator: str | None = None
    """As of greedy."""
    outputs: Literal["soft_prompt", "task"] = "soft_prompt"
    """As of greedy."""
    vectors: bool = True
    """As of greedy."""

    name = "translated"
    source = "soft2hard: candidates run beside the soft prompt"

    @property
    def needs(self) -> frozenset[Need]:
        """Depends on the proposers."""
        asks = {"generator"} if "describe" in self.propose else set()
        own = {"translator"} & {*self.propose} if self.translator is None else set()
        return frozenset({"soft_prompt", "train", "validation", *asks} | own)

    def __post_init__(self) -> None:
        if not self.propose:
            raise ValueError("propose names no proposer; there are translator, describe, elicit and search")
