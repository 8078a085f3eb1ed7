"""Methods x tasks x seeds, resumable cell by cell."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.cases import SoftPromptStore, drawn_tasks
from soft2hard.eval.cells import CellFile
from soft2hard.eval.claiming import claim
from soft2hard.eval.config import Evaluation, MethodChoice
from soft2hard.eval.coverage import unknown_share
from soft2hard.eval.fan_out import rows_by_seed
from soft2hard.eval.fan_out_cluster import rows_on_cluster
from soft2hard.eval.identity import inputs_of
from soft2hard.eval.methods.base import Bench, Case, Checked, Method, Outcome
from soft2hard.eval.metrics.scrutability import reference_points
from soft2hard.eval.models import Models
from soft2hard.eval.needs import problems_of
from soft2hard.eval.provenance import new_run_record
from soft2hard.eval.records import NOTEWORTHY_UNKNOWN, ReferencePerplexity, ResultRow, RunRecord
from soft2hard.eval.results import write_results
from soft2hard.eval.scoring import score_seed
from soft2hard.workers.cluster import Cluster

Log = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Told how many cells are done, and how many there are in all."""


def silent(message: str) -> None:
    """Say nothing."""


@dataclass
class Harness:
    """One run of an evaluation in a folder; a folder with cells of the same evaluation is gone on with.

    Raises UserError, before anything runs, where the folder holds another run, a model is missing, or tasks lack what
    a method needs.
    """

    config: Evaluation
    folder: Path
    log: Log = silent
    """A function of a module where there are several processes: it is sent to them."""
    on_cell: Progress = lambda done, total: None
    workers: int = 1
    """Processes that make the cells, one seed each at a time."""
    retry_failed: bool = False
    """Make failed cells again instead of keeping their reasons."""
    cluster: Cluster | None = None
    """Ray cluster whose workers make the cells instead."""

    def run(self) -> list[ResultRow]:
        """All cells that are missing, then all scores; the results are written last."""
        self._check()
        claim(self.folder, self._record)
        started, n_before = time.monotonic(), self._n_done()
        by_seed = self._rows_by_seed()
        rows = [row for seed in self.config.seeds for row in by_seed[seed]]
        cases = {seed: self._cases(seed, "test") for seed in self.config.seeds}
        record = replace(self._record, reference_perplexity=self._reference_perplexity(cases))
        seconds = time.monotonic() - started if self._n_done() > n_before else None
        write_results(self.folder, record, rows, cases, self._losses(), seconds)
        return rows

    def _rows_by_seed(self) -> dict[int, list[ResultRow]]:
        if self.cluster is not None:
            return rows_on_cluster(self, self.cluster, self._tell)
        if self.workers > 1 and len(self.config.seeds) > 1:
            return rows_by_seed(self, self._tell)
        return {seed: self.run_seed(seed) for seed in self.config.seeds}

    def run_seed(self, seed: int) -> list[ResultRow]:
        """The rows of one seed; cells that are on disk are not made again."""
        cases, bench = self._cases(seed, "test"), self._bench_with_validation(seed)
        outcomes = {choice.label: self._outcomes(choice, method, cases, bench) for choice, method in self._methods}
        rows = score_seed(seed, cases, outcomes, bench)
        self.log(f"seed {seed}: scored")
        return rows

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits whose tasks have soft prompts in this run."""
        return ("test", "validation") if "validation_cases" in self._needs else ("test",)

    def tune(self, seed: int, split: str) -> None:
        """Make the missing soft prompts of a seed and split alone."""
        self._cases(seed, split)

    def make_cells(self, seed: int, label: str) -> None:
        """Make the missing cells of one method under a seed alone."""
        choice, method = next(found for found in self._methods if found[0].label == label)
        self._outcomes(choice, method, self._cases(seed, "test"), self._bench_with_validation(seed))

    # --- models and cases ---------------------------------------------------------------------

    @cached_property
    def _methods(self) -> list[tuple[MethodChoice, Method]]:
        return [(choice, choice.build()) for choice in self.config.methods]

    @cached_property
    def _needs(self) -> frozenset[str]:
        return frozenset().union(*(method.needs for _, method in self._methods))

    @cached_property
    def _models(self) -> Models:
        return Models(self.config, self._needs, self.folder, self.log)

    def _bench_with_validation(self, seed: int) -> Bench:
        return self._bench(seed, self._cases(seed, "validation") if "validation" in self.splits else ())

    def _bench(self, seed: int, validation: Sequence[Case] = ()) -> Bench:
        return Bench(
            subject=self._models.subject,
            tuning_subject=self._models.tuning_subject,
            translator=self._models.translator,
            reference=self._models.reference,
            generator=self._models.generator,
            encoder=self._models.encoder,
            validation=validation,
            seed=seed,
            max_seconds=self.config.max_seconds,
            max_model_calls=self.config.max_model_calls,
            log=self.log,
        )

    def _cases(self, seed: int, split: str) -> list[Case]:
        tasks = drawn_tasks(self.config.tasks, split, seed)
        return list(self._store(seed, split).cases(tasks, self.log))

    def _store(self, seed: int, split: str) -> SoftPromptStore:
        path = self.folder / "soft_prompts" / f"{seed}-{split}.safetensors"
        return SoftPromptStore(path, self._models.tuning_subject, self.config.tuning_of(seed))

    def _reference_perplexity(self, cases: dict[int, list[Case]]) -> ReferencePerplexity | None:
        """Of the gold instructions as they are and with their words shuffled, for the reader of perplexities."""
        of_any_seed = next(iter(cases.values()))
        texts = [case.task.instruction for case in of_any_seed if case.task.instruction]
        if self._models.reference is None or not texts:
            return None
        points = reference_points(self._models.reference, texts)
        return ReferencePerplexity(points.natural, points.shuffled, points.n_texts)

    def _losses(self) -> dict[int, dict[str, list[tuple[int, float]]]]:
        return {seed: self._store(seed, "test").losses() for seed in self.config.seeds}

    # --- cells --------------------------------------------------------------------------------

    def _outcomes(
        self, choice: MethodChoice, method: Method, cases: Sequence[Case], bench: Bench
    ) -> dict[str, Outcome]:
        file = CellFile(self.folder, choice.label, bench.seed)
        outcomes = file.read({case.task.name: case for case in cases}, keep_failed=not self.retry_failed)
        missing = [case for case in cases if case.task.name not in outcomes]
        if not missing:
            return outcomes
        started = time.monotonic()
        for case, outcome in zip(missing, _safely(method, missing, bench), strict=False):
            file.append(case, outcome)
            outcomes[case.task.name] = outcome
            self._tell()
        seconds = time.monotonic() - started
        self.log(f"seed {bench.seed}: {choice.label}, {len(missing)} cells in {seconds:.0f} s")
        return outcomes

    def _tell(self) -> None:
        self.on_cell(self._n_done(), len(self._methods) * len(self.config.seeds) * len(self._tasks))

    def _n_done(self) -> int:
        return sum(
            CellFile(self.folder, choice.label, seed).n_lines()
            for choice, _ in self._methods
            for seed in self.config.seeds
        )

    @cached_property
    def _tasks(self) -> list[Task]:
        return drawn_tasks(self.config.tasks, "test", self.config.seeds[0])

    def _check(self) -> None:
        """Refuse, all at once, what methods lack."""
        problems = problems_of(self.config, self._methods, self._tasks)
        # Models are loaded only once all that can be known without them is in order.
        if not problems:
            problems = list(_refusals(self._methods, self._bench(self.config.seeds[0])))
        if problems:
            raise UserError(
                "; ".join(problems) + ".",
                "Leave these methods out, or give what they need (docs/task-files.md, docs/evaluation.md).",
            )

    @cached_property
    def _record(self) -> RunRecord:
        dropped: Counter[str] = Counter()
        for seed in self.config.seeds:
            drawn_tasks(self.config.tasks, "test", seed, dropped)
        unknown = unknown_share(self._models.subject, self._tasks)
        if unknown > NOTEWORTHY_UNKNOWN:
            self.log(f"{unknown:.0%} of the tokens of these tasks are unknown to the subject: expect poor scores.")
        return new_run_record(self.config, inputs_of(self.config, self._models), unknown, +dropped)


def _refusals(methods: Sequence[tuple[MethodChoice, Method]], bench: Bench) -> Iterator[str]:
    """What methods themselves object to on this bench, such as a reference LM of another vocabulary."""
    for choice, method in methods:
        try:
            if isinstance(method, Checked):
                method.check(bench)
        except UserError as error:
            yield f"{choice.label}: {error.problem.rstrip('.')}"


def _safely(method: Method, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
    """A method's outcomes. Where a batch raises, its cases are run one by one, and those fail that raise alone.

    So one bad case leaves the others' results intact; the reason is kept and shown.
    """
    done = 0
    try:
        for outcome in method.run(cases, bench):
            yield outcome
            done += 1
    except Exception as error:  # a failure is data here: it is counted with its reason
        bench.log(f"{method.name}: {cases[done].task.name}{' or a later case' * (len(cases) > 1)}: {error}")
        if len(cases) == 1:
            yield Outcome(None, failure=f"{type(error).__name__}: {error}")
            return
        for case in cases[done:]:
            yield from _safely(method, [case], bench)
