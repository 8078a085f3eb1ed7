"""How much each stage of a recipe asks of its models, in token passes.

A token pass is one token through a model once, forwards; a backward pass to the inputs alone costs as much again, one
to the weights besides twice as much. So tuning takes 2 passes a token, training 3, and training adapters on frozen
weights 2 (Kaplan et al. 2020, arXiv 2001.08361, section 2.1: 2 floating-point operations a parameter and token
forwards, 4 backwards). Attention to other tokens is left out: it is small at these lengths. Early stopping is left out
too, so every figure is the most it can be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.eval.config import Evaluation
from soft2hard.eval.methods.base import Method
from soft2hard.lm.template import Template
from soft2hard.pipeline.recipe import Recipe
from soft2hard.translator.card import Architecture
from soft2hard.translator.settings import Design

_FORWARD, _TUNING, _TRAINING = 1, 2, 3


@dataclass(frozen=True)
class Lengths:
    """Means over tasks."""

    example: float
    """Tokens of an input with its output, laid out as the subject reads them."""
    instruction: float
    """Tokens of an instruction."""
    n_validation: float
    """Validation examples of a task."""
    n_test: float
    """Test examples of a task."""
    basis: str
    """How these were found, for people."""


ASSUMED = Lengths(80.0, 32.0, 16.0, 64.0, "assumed: the tasks are not at hand")
"""Of collections that are not there; instances of Super-NaturalInstructions of up to 100 words are about this long."""


def lengths_of(
    tasks: Sequence[Task], n_tokens: Callable[[str], float], basis: str, longest: int = Design.instruction_tokens
) -> Lengths:
    """Measured on tasks by a way to count tokens, instructions cut at `longest`; `ASSUMED` where there are none."""
    if not tasks:
        return ASSUMED
    examples = [example for task in tasks for example in (task.train + task.validation)[:16]]
    layout = Template()
    return Lengths(
        example=fmean(
            n_tokens(layout.body_text(e.input, True)) + n_tokens(layout.output_text(e.output)) for e in examples
        ),
        instruction=fmean(min(n_tokens(t.instruction), longest) for t in tasks),
        n_validation=fmean(len(task.validation) for task in tasks),
        n_test=fmean(len(task.test) for task in tasks),
        basis=basis,
    )


@dataclass(frozen=True)
class Work:
    """Token passes of a stage by the kind of work."""

    tuning: float = 0.0
    """Through the subject, while soft prompts are tuned."""
    training: float = 0.0
    """Through the translator, while it is trained."""
    running: float = 0.0
    """Through the subject, while prompts are run."""
    uncounted: tuple[str, ...] = ()
    """Methods whose passes are not known beforehand."""


def tuning_step(tuning: Tuning, lengths: Lengths) -> float:
    """Token passes of one step of one soft prompt."""
    return _TUNING * tuning.batch_size * (tuning.n_tokens + lengths.example)


def tuning_passes(tuning: Tuning, lengths: Lengths) -> float:
    """Token passes of one soft prompt that takes all its steps."""
    look = _FORWARD * lengths.n_validation * (tuning.n_tokens + lengths.example)
    return tuning.steps * tuning_step(tuning, lengths) + (1 + tuning.steps // tuning.eval_every) * look


def architecture_of(recipe: Recipe) -> Architecture:
    """The translator's architecture; 'auto' without a base is taken for causal-lora, as with most subjects."""
    settings = recipe.translator
    if settings.architecture != "auto":
        return settings.architecture
    return "encoder-decoder" if settings.base is not None else "causal-lora"


def reading_pair(architecture: Architecture, n_tokens: int, lengths: Lengths) -> float:
    """Token passes of a look at a pair. Half of an encoder-decoder reads the soft prompt, and the other half writes."""
    return _FORWARD * (n_tokens + lengths.instruction) * (0.5 if architecture == "encoder-decoder" else 1.0)


def training_pair(architecture: Architecture, n_tokens: int, lengths: Lengths) -> float:
    """Token passes of a pair in training; under adapters the weights are frozen, as they are in tuning."""
    passes = _TRAINING if architecture == "encoder-decoder" else _TUNING
    return passes * reading_pair(architecture, n_tokens, lengths)


def n_pairs(recipe: Recipe, split: str) -> int:
    """Soft prompts of a split, those on the way included where the translator trains on them."""
    of_task = {name: 1 + len(c.snapshot_steps) * (split == "train") for name, c in recipe.of_split(split).items()}
    return sum(recipe.corpora[name].n_tasks * n for name, n in of_task.items())


def corpora_work(recipe: Recipe, lengths: dict[str, Lengths]) -> Work:
    """All corpora; `lengths` by their names."""
    passes = [c.n_tasks * tuning_passes(recipe.corpus_tuning(n), lengths[n]) for n, c in recipe.corpora.items()]
    return Work(tuning=sum(passes))


def translator_work(recipe: Recipe, lengths: dict[str, Lengths], architecture: Architecture) -> Work:
    """All epochs, each with a look at the validation corpora, and the imitation pairs before."""
    first, training = next(iter(recipe.corpora)), recipe.training
    of_pair = (architecture, recipe.corpus_tuning(first).n_tokens, lengths[first])
    trained = training.pretrain_pairs + training.epochs * n_pairs(recipe, "train")
    looks = training.epochs * n_pairs(recipe, "validation")
    return Work(training=trained * training_pair(*of_pair) + looks * reading_pair(*of_pair))


def evaluation_work(config: Evaluation, n_tasks: int, lengths: Lengths) -> Work:
    """Soft prompts of all seeds, and what the methods take for each."""
    cells, tuning = n_tasks * len(config.seeds), config.tuning_of(config.seeds[0])
    runs = {choice.label: runs_of(choice.build(), lengths) for choice in config.methods}
    known = sum(n for n in runs.values() if n is not None)
    return Work(
        tuning=cells * tuning_passes(tuning, lengths),
        running=cells * known * (tuning.n_tokens + lengths.example),
        uncounted=tuple(label for label, n in runs.items() if n is None),
    )


def runs_of(method: Method, lengths: Lengths) -> float | None:
    """Examples that the subject runs for one cell, about; None for a method that cannot be told."""
    options = vars(method)
    if method.name in ("none", "gold", "soft", "greedy", "nearest-token"):
        return lengths.n_test
    if method.name == "few-shot":
        return lengths.n_test * (1 + options["k"])
    if method.name == "translated":
        rounds = 1 + options["refine_rounds"]
        return lengths.n_test + rounds * options["n_candidates"] * (options["n_probes"] + options["n_checks"])
    if method.name == "induction":
        return lengths.n_test + options["n"] * (options["k"] + lengths.n_validation)
    if method.name == "pez":
        return lengths.n_test + _TUNING * options["steps"] * options["batch_size"]
    if method.name in ("rlprompt", "pin"):
        return lengths.n_test + options["steps"] * options["batch"] * options["examples"]
    return None
