"""Methods x tasks x seeds in one process, resumable cell by cell; `fan_out` shares the work out among several."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from soft2hard.data_gen.tasks import StyleTask
from soft2hard.errors import UserError
from soft2hard.eval.cases import CellFile, Draw, Log, Pace, SoftPromptStore, silent
from soft2hard.eval.config import Evaluation, MethodChoice
from soft2hard.eval.loaded_models import Models, inputs_of, problems_of
from soft2hard.eval.methods.base import Bench, Case, Method, Outcome
from soft2hard.eval.methods.registry import options_of
from soft2hard.eval.metrics.scrutability import reference_points
from soft2hard.eval.results import mauve_points, score_seed, style_points, write_results
from soft2hard.eval.run_records import NOTEWORTHY_UNKNOWN, MethodRecord, ReferencePerplexity, ResultRow, RunRecord
from soft2hard.lm.precision import rounding_of
from soft2hard.lm.subject import Subject
from soft2hard.storage.run_folders import Kind, Record, claim, made_with

_N_INPUTS = 128
"""Test inputs whose perplexity stands beside that of prompts."""

Progress = Callable[[int, int], None]
"""Told how many cells are done, and how many there are in all."""


def _identity(record: Record) -> dict[str, Any]:
    """Of the subject's loading its rounding alone decides results, not where it runs."""
    # Runs begun before an evaluation said how it holds its subject held it as now by default.
    loading = rounding_of(record["config"].get("loading") or {})
    return record["config"] | {"loading": loading, "inputs": record.get("inputs") or {}}


RUN = Kind("an evaluation", "run.json", _identity)


@dataclass
class Harness:
    """One run of an evaluation in a folder; a folder with cells of the same evaluation is resumed.

    Raises UserError, before anything runs, where the folder holds another run, a model is missing, or tasks lack what
    a method needs.
    """

    config: Evaluation
    folder: Path
    log: Log = silent
    on_cell: Progress = lambda done, total: None
    retry_failed: bool = False
    """Make failed cells again instead of keeping their reasons."""
    paced: bool = True
    """Let the log hear now and then of progress."""

    def run(self, rows_by_seed: Callable[["Harness"], Mapping[int, list[ResultRow]]] | None = None) -> list[ResultRow]:
        """All cells that are missing, then all scores; the results are written last.

        `rows_by_seed` makes the rows of all seeds in this claimed folder, elsewhere than in this process.
        """
        self._check()
        begun = claim(self.folder, RUN, asdict(self._record))
        started, n_before = time.monotonic(), self.n_done()
        by_seed = rows_by_seed(self) if rows_by_seed else {seed: self.run_seed(seed) for seed in self.config.seeds}
        rows = [row for seed in self.config.seeds for row in by_seed[seed]]
        cases = {seed: self.cases(seed, "test") for seed in self.config.seeds}
        losses = {seed: self._store(seed, "test").losses() for seed in self.config.seeds}
        self.log("writing the results")
        points = style_points(cases, self._models.style, self._models.reference)
        natural = self._reference_perplexity(cases)
        kinds = mauve_points(rows, cases, self._models.reference)
        record = replace(self._record, reference_perplexity=natural, style_points=points, mauve=kinds)
        seconds = time.monotonic() - started if self.n_done() > n_before else None
        trained_on = self._models.translator.trained_on if self._models.translator is not None else ()
        write_results(self.folder, _finished(record, begun, seconds), rows, cases, losses, trained_on)
        return rows

    def run_seed(self, seed: int) -> list[ResultRow]:
        """The rows of one seed; cells that are on disk are not made again."""
        cases, bench = self.cases(seed, "test"), self._bench(seed)
        outcomes = {choice.label: self._outcomes(choice, method, cases, bench) for choice, method in self._methods}
        rows = score_seed(seed, cases, outcomes, bench, self._pace(f"seed {seed}: tasks scored"))
        self.log(f"seed {seed}: scored")
        return rows

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits whose tasks have soft prompts in this run."""
        return ("test", "validation") if "validation_cases" in self._needs else ("test",)

    def make_cells(self, seed: int, label: str) -> None:
        """Make the missing cells of one method under a seed alone."""
        choice, method = next(found for found in self._methods if found[0].label == label)
        self._outcomes(choice, method, self.cases(seed, "test"), self._bench(seed))

    def n_done(self) -> int:
        """Cells on disk, made by this process or by others."""
        return sum(file.n_lines() for file in self._files.values())

    @property
    def n_cells(self) -> int:
        """Cells in all."""
        return len(self._files) * len(self._draw("test", self.config.seeds[0]))

    # --- models and cases ---------------------------------------------------------------------

    @cached_property
    def _methods(self) -> list[tuple[MethodChoice, Method]]:
        return [(choice, choice.build()) for choice in self.config.methods]

    @cached_property
    def _needs(self) -> frozenset[str]:
        return frozenset().union(*(method.needs for _, method in self._methods))

    @property
    def subject(self) -> Subject:
        """The subject that prompts are scored on."""
        return self._models.subject

    @cached_property
    def _models(self) -> Models:
        return Models(self.config, self._needs, self.folder, self.log, self._outputs, self._style_tasks)

    def _style_tasks(self) -> list[StyleTask]:
        return [task for task in self._draw("test", self.config.seeds[0]) if isinstance(task, StyleTask)]

    def _outputs(self) -> Iterator[str]:
        for seed in self.config.seeds:
            for task in self._draw("test", seed):
                yield from (example.output for example in task.examples)

    @cached_property
    def _draw(self) -> Draw:
        return Draw(self.config.tasks)

    def _bench(self, seed: int) -> Bench:
        return self._models.bench(seed, self.cases(seed, "validation") if "validation" in self.splits else ())

    def cases(self, seed: int, split: str) -> list[Case]:
        """The cases of a seed and split; soft prompts that are missing are tuned and saved."""
        return self._store(seed, split).cases(self._draw(split, seed), self.log)

    def _store(self, seed: int, split: str) -> SoftPromptStore:
        path = self.folder / "soft_prompts" / f"{seed}-{split}.safetensors"
        tuning, lengths = self.config.tuning_of(seed), self.config.tasks.lengths
        return SoftPromptStore(path, self._models.tuning_subject, tuning, lengths)

    def _reference_perplexity(self, cases: Mapping[int, Sequence[Case]]) -> ReferencePerplexity | None:
        """Of the gold instructions as they are and with their words shuffled, and of test inputs, for the reader of
        perplexities."""
        of_any_seed = next(iter(cases.values()))
        texts = [case.task.instruction for case in of_any_seed if case.task.instruction]
        if self._models.reference is None or not texts:
            return None
        inputs = sorted({example.input for case in of_any_seed for example in case.task.test})
        some = Random(0).sample(inputs, min(_N_INPUTS, len(inputs)))
        return reference_points(self._models.reference, texts, inputs=some)

    # --- cells --------------------------------------------------------------------------------

    @cached_property
    def _files(self) -> dict[tuple[str, int], CellFile]:
        seeds, labels = self.config.seeds, [choice.label for choice in self.config.methods]
        return {(label, seed): CellFile(self.folder, label, seed) for label in labels for seed in seeds}

    def _outcomes(
        self, choice: MethodChoice, method: Method, cases: Sequence[Case], bench: Bench
    ) -> dict[str, Outcome]:
        file = self._files[choice.label, bench.seed]
        outcomes = file.read({case.task.name: case for case in cases}, keep_failed=not self.retry_failed)
        missing = [case for case in cases if case.task.name not in outcomes]
        if not missing:
            return outcomes
        started, n_made = time.monotonic(), self.n_done()
        pace = self._pace(f"seed {bench.seed}: cells of {choice.label}")
        for n, (case, outcome) in enumerate(zip(missing, _safely(method, missing, bench), strict=False), start=1):
            file.append(case, outcome)
            outcomes[case.task.name] = outcome
            self.on_cell(n_made + n, len(self._files) * len(cases))
            pace(n, len(missing))
        seconds = time.monotonic() - started
        self.log(f"seed {bench.seed}: {choice.label}, {len(missing)} cells in {seconds:.0f} s")
        return outcomes

    def _pace(self, what: str) -> Progress:
        return Pace(self.log if self.paced else silent, what)

    # --- before anything runs -----------------------------------------------------------------

    def _check(self) -> None:
        """Refuse, all at once, what methods lack."""
        problems = problems_of(self.config, self._methods, self._draw)
        # Models are loaded only once all that can be known without them is in order.
        if not problems:
            problems = list(_refusals(self._methods, self._models.bench(self.config.seeds[0])))
        if problems:
            raise UserError(
                "; ".join(problems) + ".",
                "Leave these methods out, or give what they need (docs/task-files.md, docs/evaluation.md).",
            )

    @cached_property
    def _record(self) -> RunRecord:
        """The record of a run that begins now with these tasks and models."""
        tasks = self._draw("test", self.config.seeds[0])
        texts = {task.instruction for task in tasks}
        texts.update(text for task in tasks for one in task.test for text in (one.input, one.output))
        unknown = self._models.subject.unknown_share(texts)
        if unknown > NOTEWORTHY_UNKNOWN:
            self.log(
                f"{unknown:.0%} of the tokens of these tasks are unknown to the subject: expect poor scores, or take "
                "another subject, such as smollm2."
            )
        methods = tuple(
            MethodRecord(choice.label, choice.name, options_of(choice.name).source, dict(choice.options))
            for choice in self.config.methods
        )
        return RunRecord(
            config=self.config.model_dump(mode="json"),
            methods=methods,
            seeds=self.config.seeds,
            inputs=inputs_of(self.config, self._models, self._draw),
            unknown_tokens=unknown,
            dropped=dict(+self._draw.dropped),
            **made_with(),
        )


def _finished(record: RunRecord, begun: Record | None, seconds: float | None) -> RunRecord:
    """The record of a finished run, of which earlier sittings left the record `begun`.

    A sitting that made no cell (`seconds` None) has scored old ones once more: they are still those of the old code.
    """
    begun = begun or asdict(record)
    commits = dict.fromkeys([*(begun.get("commit") or "unknown").split(", "), record.commit or "unknown"])
    commit = begun.get("commit") if seconds is None else ", ".join(commits)
    seconds = begun.get("seconds") or 0.0 if seconds is None else seconds
    return replace(record, created=begun["created"], commit=commit, seconds=seconds)


def _refusals(methods: Sequence[tuple[MethodChoice, Method]], bench: Bench) -> Iterator[str]:
    """Objections of the methods themselves to this bench, such as a reference LM of another vocabulary."""
    for choice, method in methods:
        try:
            getattr(method, "check", lambda bench: None)(bench)
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
