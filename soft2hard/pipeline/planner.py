"""What each stage of a recipe comes to, before anything is made: how much there is to do, disk, time."""

from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import torch
from transformers import PreTrainedTokenizerBase

from soft2hard.data_gen.tasks import Task
from soft2hard.eval.cases import drawn_tasks
from soft2hard.lm.loading import Loading, load_tokenizer
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.pipeline import workload
from soft2hard.pipeline.corpora import dod_of, is_at_hand
from soft2hard.pipeline.layout import Layout
from soft2hard.pipeline.probe import (
    FLOPS_A_PASS,
    Rate,
    at_hand,
    estimated,
    matrix_flops,
    measured_slots,
    n_parameters,
    running_rate,
    training_rate,
    tuning_rate,
)
from soft2hard.pipeline.recipe import Recipe
from soft2hard.pipeline.stages import Stage
from soft2hard.pipeline.workload import Lengths, Work, lengths_of
from soft2hard.storage.names import located
from soft2hard.translator.card import Architecture
from soft2hard.translator.model import Translator

_SAMPLE = 16
"""Tasks whose examples are looked at."""
_FLOAT = 4
_CHECKPOINTS, _OPTIMIZER_COPIES = 2, 2
"""Checkpoints kept while training, and copies of the weights that an optimizer keeps beside them (AdamW: two)."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage comes to."""

    stage: Stage
    size: str
    """How much there is to do, for people."""
    n_bytes: float
    """About, on disk."""
    operations: float
    """Floating-point, at most."""
    seconds: float | None
    """On this machine, at most; None where it is not known."""
    how: tuple[str, ...]
    """Where the time comes from."""


class Planner:
    """Plans a recipe; models that are at hand are loaded once, to be measured."""

    def __init__(self, recipe: Recipe, layout: Layout):
        self.recipe, self.layout = recipe, layout

    def plan(self, stage: Stage) -> StagePlan:
        """What a stage comes to, and the time from a short measurement."""
        work, size, n_bytes = getattr(self, f"_{stage.name}")()
        rates = {kind: getattr(self, f"_{kind}_rate") for kind in ("tuning", "training", "running")}
        used = {kind: rate() for kind, rate in rates.items() if getattr(work, kind)}
        known = [rate for rate in used.values() if rate is not None]
        seconds = sum(getattr(work, kind) * rate.seconds for kind, rate in used.items() if rate is not None)
        how = [f"{kind}: {rate.how}" if rate else f"{kind}: unknown, {self._unknown}" for kind, rate in used.items()]
        if used:
            how.append(f"tokens: {self._lengths[next(iter(self.recipe.corpora))].basis}")
        if work.uncounted:
            how.append(f"not counted: {', '.join(work.uncounted)}")
        is_known = len(known) == len(used) and bool(used)
        return StagePlan(stage, size, n_bytes, self._operations(work), seconds if is_known else None, tuple(how))

    # --- stages: work, size in words, bytes -------------------------------------------------------

    def _corpora(self) -> tuple[Work, str, float]:
        corpora = self.recipe.corpora.items()
        size = ", ".join(f"{name}: {c.n_tasks:,} {c.split} tasks" for name, c in corpora)
        rows = sum(c.n_tasks * (1 + len(c.snapshot_steps)) for _, c in corpora)
        return workload.corpora_work(self.recipe, self._lengths), size, rows * self._prompt_bytes

    def _translator(self) -> tuple[Work, str, float]:
        pairs, training = workload.n_pairs(self.recipe, "train"), self.recipe.training
        size = f"{pairs:,} pairs, {training.epochs:g} epochs"
        copies = 1 + _CHECKPOINTS * (1 + _OPTIMIZER_COPIES) * (2 if training.pretrain_pairs else 1)
        parameters = self._saved_parameters or 0.0
        return (
            workload.translator_work(self.recipe, self._lengths, self._architecture),
            size,
            parameters * _FLOAT * copies,
        )

    def _evaluation(self) -> tuple[Work, str, float]:
        config, tasks = self.recipe.evaluation, self._test_tasks
        n = len(tasks) or config.tasks.n
        lengths = lengths_of(tasks[:_SAMPLE], self._count, "")
        cells = n * len(config.seeds)
        size = f"{n} tasks, {len(config.seeds)} seeds, {len(config.methods)} methods"
        return workload.evaluation_work(config, n, lengths), size, cells * (self._prompt_bytes + 4096)

    def _transfer(self) -> tuple[Work, str, float]:
        asked, config = self.recipe.transfer, self.recipe.evaluation
        tasks = self._test_tasks
        methods = len(asked.methods or config.methods) + len(set(asked.references) - set(asked.methods))
        examples = fmean(len(task.test) for task in tasks) if tasks else workload.ASSUMED.n_test
        examples = min(examples, float(asked.n_examples or examples))
        models = len(asked.models) + (asked.serve is not None)
        cells = methods * (len(tasks) or config.tasks.n) * len(config.seeds) * examples * asked.repeats * models
        return Work(), f"{cells:,.0f} requests at most; time and price are the API's", cells * 2048

    def _report(self) -> tuple[Work, str, float]:
        return Work(), "one page, seconds", 2e6

    # --- lengths --------------------------------------------------------------------------------

    @cached_property
    def _lengths(self) -> dict[str, Lengths]:
        basis = f"counted on {_SAMPLE} tasks" + ("" if self._subject_at_hand else ", four bytes a token")
        found = {}
        for name, corpus in self.recipe.corpora.items():
            there = is_at_hand(corpus.dod, corpus.folder)
            tasks = list(dod_of(corpus).tasks(corpus.split, _SAMPLE, corpus.task_seed)) if there else []
            found[name] = lengths_of(tasks, self._count, basis, self.recipe.translator.instruction_tokens)
        return found

    @cached_property
    def _test_tasks(self) -> list[Task]:
        config = self.recipe.evaluation
        there = all(path.exists() for path in config.tasks.files)
        there = there and (config.tasks.dod is None or is_at_hand(config.tasks.dod, config.tasks.folder))
        return drawn_tasks(config.tasks, "test", config.seeds[0]) if there else []

    def _count(self, text: str) -> float:
        """Tokens of a text: by the subject's tokenizer, or four bytes a token."""
        if self._tokenizer is None:
            return len(text.encode()) / 4
        return float(len(self._tokenizer.encode(text, add_special_tokens=False)))

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase | None:
        return load_tokenizer(located(self.recipe.subject, "subject")) if self._subject_at_hand else None

    # --- models ---------------------------------------------------------------------------------

    @cached_property
    def _subject_at_hand(self) -> bool:
        return at_hand(self.recipe.subject)

    @cached_property
    def _subject(self) -> Subject | None:
        return load_for_tuning(self.recipe.subject, Loading(**self.recipe.loading)) if self._subject_at_hand else None

    @cached_property
    def _untrained(self) -> Translator | None:
        """The translator before its training, where all it is made of is at hand."""
        base = self.recipe.translator.base
        if self._subject is None or (base is not None and not at_hand(base)):
            return None
        subject, path = self._subject, self.recipe.subject
        if subject.device.type == "cpu" and subject.embedding.dtype != torch.float32:  # for tuning alone
            subject = Subject.from_pretrained(path, loading=Loading(**self.recipe.loading))
        return Translator.for_subject(subject, self.recipe.translator.design)

    @property
    def _architecture(self) -> Architecture:
        """Of the translator, 'auto' decided."""
        return self._untrained.card.architecture if self._untrained else workload.architecture_of(self.recipe)

    def _parameters(self, of: str) -> float | None:
        """Of the subject or the translator: counted, or as published; None where unknown."""
        model = self._subject if of == "subject" else self._untrained
        if model is not None:
            return float(n_parameters(model.model))
        name = self.recipe.subject if of == "subject" else self.recipe.translator.base
        if name is None and self.recipe.translator.architecture != "encoder-decoder":
            name = self.recipe.subject
        return self.recipe.sizes[name].parameters if name in self.recipe.sizes else None

    @property
    def _saved_parameters(self) -> float | None:
        """Of the translator, without those that it has from another model and leaves as they are."""
        if self._untrained is not None:
            return float(sum(tensor.numel() for tensor in self._untrained.model.state_dict().values()))
        settings, parameters = self.recipe.translator, self._parameters("translator")
        if parameters is None or settings.architecture == "encoder-decoder":
            return parameters
        if settings.architecture == "auto" and settings.base is not None:
            return parameters
        # An adapter has rank x (inputs + outputs) weights for each inputs x outputs, most of which are square.
        width = self.recipe.sizes[settings.base or self.recipe.subject].width
        return parameters * min(1.0, 2 * settings.lora_rank / width)

    @property
    def _prompt_bytes(self) -> float:
        """Of one soft prompt on disk."""
        size = self.recipe.sizes.get(self.recipe.subject)
        width = self._subject.d_model if self._subject else size.width if size else 0
        return float(self.recipe.evaluation.tuning_of(0).n_tokens * width * _FLOAT)

    # --- rates ----------------------------------------------------------------------------------

    @property
    def _unknown(self) -> str:
        return "neither is the model at hand nor its size given under 'sizes'"

    @cached_property
    def _flops(self) -> float:
        return matrix_flops()

    def _tuning_rate(self) -> Rate | None:
        return self._measured_tuning if self._subject else self._estimated("subject")

    def _training_rate(self) -> Rate | None:
        return self._measured_training if self._untrained and self._tasks else self._estimated("translator")

    def _running_rate(self) -> Rate | None:
        return self._measured_running if self._subject and self._tasks else self._estimated("subject")

    def _estimated(self, of: str) -> Rate | None:
        parameters = self._parameters(of)
        return estimated(parameters, self._flops) if parameters else None

    @cached_property
    def _first(self) -> str:
        return next(iter(self.recipe.of_split("train")))

    @cached_property
    def _tasks(self) -> list[Task]:
        """Tasks to measure with, for as many slots as are measured; none where the collection is not at hand."""
        corpus, tuning = self.recipe.corpora[self._first], self.recipe.corpus_tuning(self._first)
        if not is_at_hand(corpus.dod, corpus.folder):
            return []
        n = min(measured_slots(tuning), corpus.n_tasks)
        return list(dod_of(corpus).tasks(corpus.split, n, corpus.task_seed))

    @cached_property
    def _measured_tuning(self) -> Rate | None:
        if not self._tasks:
            return self._estimated("subject")
        tuning = self.recipe.corpus_tuning(self._first)
        return tuning_rate(self._subject, tuning, self._tasks, self._lengths[self._first])

    @cached_property
    def _measured_training(self) -> Rate:
        n_tokens = self.recipe.corpus_tuning(self._first).n_tokens
        lengths = self._lengths[self._first]
        pair = workload.training_pair(self._architecture, n_tokens, lengths)
        return training_rate(self._untrained, n_tokens, self.recipe.training, self._tasks, pair)

    @cached_property
    def _measured_running(self) -> Rate:
        return running_rate(self._subject, self._tasks[:_SAMPLE])

    def _operations(self, work: Work) -> float:
        subject, translator = (self._parameters(of) or 0 for of in ("subject", "translator"))
        return FLOPS_A_PASS * ((work.tuning + work.running) * subject + work.training * translator)
