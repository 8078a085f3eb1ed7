"""The records that an evaluation leaves on disk: one row a cell (method, task, seed), and the making of the run.

A run folder holds `run.json` (`RunRecord`), `cells/<seed>/<method>.jsonl` while it is being made, and when it is
finished `results.parquet` (one `ResultRow` a line), `tasks.json` (`TaskRecord`s), `soft_prompts.safetensors`
(one tensor a task and seed, named `<seed>/<task>`) and `training.jsonl` (mean validation loss of their tuning by step).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 1

NOTEWORTHY_UNKNOWN = 0.01
"""A share of unknown tokens above this is said in the log and in the report."""

PromptKind = Literal["hard", "soft", "none"]


@dataclass(frozen=True)
class ResultRow:
    """One cell: what one method made of one task under one seed, and how that scores on test examples.

    Figures are None where they do not apply (a perplexity of a soft prompt) or do not exist (a failed cell).
    """

    method: str
    """Label of the method in this run; two settings of one method have two labels."""
    task: str
    family: str
    seed: int
    kind: PromptKind
    prompt: str | None = None
    """The hard prompt; None for soft prompts and for no prompt."""
    failure: str | None = None
    """Why there is no prompt. Failed cells have no scores and are counted apart."""
    score: float | None = None
    """The task's own metric on its test examples, 0 to 1."""
    top1_agreement: float | None = None
    """Share of target positions at which the likeliest token is the same as under the soft prompt."""
    loss: float | None = None
    """Mean negative log-likelihood of the test outputs, nats a token."""
    performance_differential: float | None = None
    """Distance of `loss` from the soft prompt's on the same test examples (arXiv 2504.02144); None in runs from before
    it was measured."""
    agreement: float | None = None
    """Share of test inputs for which the subject writes the same as under the soft prompt."""
    kl: float | None = None
    """Mean KL(soft || prompt) over target positions, nats."""
    explained_share: float | None = None
    """1 - KL(soft || prompt) / KL(soft || no prompt), over target positions: 1 for the soft prompt, 0 for no prompt,
    negative for a prompt that leads further away than none. None also where the soft prompt does next to nothing or no
    prompt can be run, and in runs from before it was measured."""
    logit_distance: float | None = None
    """Mean squared difference of the logits from those under the soft prompt, over target positions and vocabulary
    (output differential, arXiv 2504.02144, section 4)."""
    embedding_distance: float | None = None
    """Mean squared Euclidean distance of the prompt's embeddings from the soft prompt's, position by position
    (distance differential, section 4); only where both have as many positions."""
    embedding_cosine: float | None = None
    """Mean cosine, likewise."""
    perplexity: float | None = None
    """Under the reference LM."""
    rouge1: float | None = None
    """ROUGE F1 against the gold instruction, with stemming; likewise the next two."""
    rouge2: float | None = None
    rougeL: float | None = None
    bleu: float | None = None
    chrf: float | None = None
    sentence_cosine: float | None = None
    """Of the prompt's embedding with the gold instruction's, under the run's encoder."""
    nearest_rougeL: float | None = None
    """ROUGE-L and cosine with the nearest of the gold instruction and its paraphrases."""
    nearest_cosine: float | None = None
    class_rate: float | None = None
    """Share of the task's label words that stand in the prompt (InSPEcT)."""
    keyword_precision: float | None = None
    """Share of the prompt's different words that are keywords of the task: words of its labels and its instruction,
    stop words apart, by their stems."""
    keyword_f1: float | None = None
    """Harmonic mean of the precision and of the share of the keywords that the prompt names."""
    max_rouge1: float | None = None
    """The oracle columns of InSPEcT's released code, of methods that describe a soft prompt under several pairs of
    layers: the best ROUGE-1 (without stop words) and class rate of all these, each by itself, with its description.
    Nobody could choose by them, since they see the answer."""
    max_class_rate: float | None = None
    best_rouge1_output: str | None = None
    best_class_rate_output: str | None = None
    exact_task: bool | None = None
    """Whether the prompt parses to the very task; only in DoDs whose instructions parse."""
    content: float | None = None
    """Of a style transfer: how much the rewritings of test sentences keep of their sources (`metrics.style`); 0 to 1,
    likewise the next three."""
    style: float | None = None
    """Share of the rewritings in the wanted style."""
    fluency: float | None = None
    """Share of them that the reference LM finds as natural as real sentences."""
    joint: float | None = None
    """Mean of the product of the three, sentence by sentence."""
    verdict: str | None = None
    """What the method itself says of its prompt: faithful, doubtful, failed, unverified."""
    confidence: float | None = None
    """The method's own score of its prompt that the verdict rests on, such as the agreement on probe inputs."""
    seconds: float = 0.0
    model_calls: int = 0
    tokens: int = 0
    trace: dict[str, Any] = field(default_factory=dict)
    """How the prompt came about, method by method; plain JSON values."""


@dataclass(frozen=True)
class TaskRecord:
    """A task of the run, for people who read its results."""

    name: str
    family: str
    instruction: str
    labels: tuple[str, ...] | None
    examples: tuple[tuple[str, str], ...]
    """A few training examples, input and output."""
    closest_trained: str | None = None
    """The instruction nearest to its own, by ROUGE-L, that the run's translator was trained on; None where that is not
    known."""


@dataclass(frozen=True)
class MethodRecord:
    """A method of the run, by its label, with all its options."""

    label: str
    name: str
    source: str
    options: dict[str, Any]


@dataclass(frozen=True)
class ReferencePerplexity:
    """The bounds that perplexities of prompts are read between: geometric means over texts under the reference LM."""

    natural: float
    """Texts as people write them, such as gold instructions."""
    shuffled: float
    """The same texts with their words in random order."""
    n_texts: int
    """Texts that both have a perplexity; the others are left out."""
    inputs: float | None = None
    """Test inputs of the tasks, as far as they have a perplexity; None also in runs from before it was measured."""


@dataclass(frozen=True)
class RunRecord:
    """The settings, inputs and code that a run was made with."""

    config: dict[str, Any]
    methods: tuple[MethodRecord, ...]
    seeds: tuple[int, ...]
    versions: dict[str, str]
    commit: str | None
    """Git commit of the code, with '+' where the package was changed; several, with commas, where sittings had several;
    None outside a checkout."""
    created: str
    """ISO time."""
    seconds: float | None = None
    """Wall time of the sitting that finished the run; None while it is unfinished. Costs of cells are in the rows."""
    inputs: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the tasks of each seed and of the models; a run is resumed only where they are the same."""
    unknown_tokens: float = 0.0
    """Share of the tokens of instructions and test examples that the subject's vocabulary lacks."""
    dropped: dict[str, int] = field(default_factory=dict)
    """What a published collection leaves out of its examples, by reason, over all seeds."""
    reference_perplexity: ReferencePerplexity | None = None
    """None without a reference LM or gold instructions, and while the run is unfinished."""
    style_points: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Content, style, fluency and joint score of texts that no prompt made, over style-transfer tasks and seeds:
    the human references, and the sentences unchanged. Empty without such, and while the run is unfinished."""
    mauve: dict[str, dict[str, float]] = field(default_factory=dict)
    """By method the number of its distinct hard `texts` and their `mauve` with the phrasings that come with the tasks;
    and likewise of these phrasings themselves. Empty with fewer than 100 texts, without a reference LM or the package,
    and while the run is unfinished."""
    schema_version: int = SCHEMA_VERSION
