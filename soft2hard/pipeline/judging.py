"""The stages that judge what was made: evaluation, transfer to API models, report."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from soft2hard.api.client import read_key
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.cases import Draw, drawn_tasks
from soft2hard.eval.certificate import PARTS
from soft2hard.eval.certifying import certify
from soft2hard.eval.config import MethodChoice
from soft2hard.eval.fan_out import run_evaluation
from soft2hard.eval.loaded_models import problems_of
from soft2hard.eval.report import load_run, write_report
from soft2hard.eval.transfer.delivery import Transfer
from soft2hard.eval.transfer.material import Material, gather
from soft2hard.eval.transfer.plan import distinct_requests, plan
from soft2hard.eval.transfer.results import TransferResult, collect
from soft2hard.eval.transfer.serving import can_serve, served
from soft2hard.lm.sentences import sentence_encoder
from soft2hard.lm.settings import Loading
from soft2hard.pipeline.recipe import NAMED_BY_RECIPE, Recipe
from soft2hard.pipeline.stages import Job, Stage, at_hand, collection_name

EVALUATION_FILES = ("results.parquet", "run.json", "tasks.json")
"""What the stages after it read of an evaluation."""
SERVED_LABEL = "API-side model"
"""What tables call the model that is served here."""
_SENDING = {"max_cost", "concurrency", "batch", "poll_seconds"}
"""How requests are sent changes no answer, so it may be changed at any time."""


class EvaluationStage(Stage):
    """The evaluation, with the translator that was made."""

    name = "evaluation"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("translator", "comparisons") if self.recipe.compared() else ("translator",)

    def settings(self) -> dict[str, Any]:
        decisive = {k: v for k, v in self.recipe.plain["evaluation"].items() if k not in NAMED_BY_RECIPE}
        return decisive | {"loading": Loading(**self.recipe.evaluation.loading).rounding}

    def results(self) -> tuple[Path, ...]:
        return tuple(self.layout.evaluation / name for name in EVALUATION_FILES)

    def writes(self) -> tuple[Path, ...]:
        return (self.layout.evaluation,)

    def inputs(self) -> Iterator[str]:
        tasks = self.recipe.evaluation.tasks
        yield str(self.layout.translator)
        yield from [collection_name(tasks.dod, tasks.folder)] if tasks.dod else map(str, tasks.files)

    def folders(self) -> Iterator[tuple[str, Path]]:
        tasks = self.recipe.evaluation.tasks
        for path in (*tasks.files, *([tasks.folder] if tasks.folder else [])):
            yield "evaluation.tasks", path

    def models(self) -> Iterator[tuple[str, str]]:
        yield "subject", self.recipe.subject
        config = self.recipe.evaluation
        for role, name in (("reference", config.reference), ("generator", config.generator)):
            if isinstance(name, str) and name != "subject":
                yield f"evaluation.{role}", name

    def check(self) -> None:
        """Raise UserError where the test tasks lack what a method needs, or there is no such encoder."""
        config = self.recipe.evaluation
        methods = [(choice, choice.build()) for choice in config.methods]
        problems = problems_of(config, methods, Draw(config.tasks))
        if config.encoder == "reference" and config.reference is None:
            problems.append("the encoder is to be the reference LM, but there is none")
        if problems:
            raise UserError(f"evaluation: {'; '.join(problems)}.", "Leave them out, or give what they need.")
        if config.encoder not in (None, "reference"):
            sentence_encoder(config.encoder)  # its library may be missing too, and it is small

    def size(self) -> str:
        config = self.recipe.evaluation
        return f"{self._n_tasks} tasks, {len(config.seeds)} seeds, {len(config.methods)} methods"

    @property
    def _n_tasks(self) -> int:
        return len(self.tasks) or self.recipe.evaluation.tasks.n

    @cached_property
    def tasks(self) -> list[Task]:
        """The test tasks, where they can be read without the network."""
        config = self.recipe.evaluation
        is_here = at_hand(config.tasks.dod, config.tasks.folder) if config.tasks.dod else True
        is_here = is_here and all(path.exists() for path in config.tasks.files)
        return drawn_tasks(config.tasks, "test", config.seeds[0]) if is_here else []

    def prompts(self) -> list[tuple[Tuning, int, int]]:
        seeds = self.recipe.evaluation.seeds
        return [(self.recipe.evaluation.tuning_of(seed), self._n_tasks, 1) for seed in seeds]

    def work(self, job: Job) -> None:
        """Run the evaluation. Raises UserError where the record is gone that says whose the cells are."""
        folder = self.layout.evaluation
        if (folder / "cells").exists() and not (folder / "run.json").exists():
            raise UserError(
                f"{folder / 'run.json'} is gone, so what lies beside it cannot be resumed.",
                f"Remove the folder {folder}, and run this command again: it is made again from the start.",
            )
        made = {role: self.path_of(role, name) for role, name in self.models() if self.recipe.makes(name)}
        named = {role.removeprefix("evaluation."): path for role, path in made.items()}
        named["translator"] = str(self.layout.translator.resolve())
        named["methods"] = tuple(map(self._with_translator, self.recipe.evaluation.methods))
        config = self.recipe.evaluation.model_copy(update=named)
        on_cell = partial(job.on_progress, "evaluation, cells")
        rows = run_evaluation(config, folder, job.log, on_cell, job.workers, cluster=job.cluster)
        failed = sum(row.failure is not None for row in rows)
        job.log(f"evaluation: {len(rows)} cells, {failed} of them failed")

    def _with_translator(self, choice: MethodChoice) -> MethodChoice:
        """A method with the folder of the comparison that it names as its translator."""
        name = self.recipe.compared().get(choice.label)
        if name is None:
            return choice
        options = choice.options | {"translator": str(self.layout.comparison(name).resolve())}
        return choice.model_copy(update={"options": options})


class CertificateStage(Stage):
    """Whether the translator reads the vectors."""

    name = "certificate"

    @classmethod
    def is_in(cls, recipe: Recipe) -> bool:
        return recipe.certificate is not None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("evaluation", "comparisons") if self._rivals() else ("evaluation",)

    def _rivals(self) -> list[Path]:
        kinds = {name: self.recipe.comparison(name).reads for name in self.recipe.comparisons}
        first = {kind: name for name, kind in reversed(kinds.items())}
        names = [name for name, kind in kinds.items() if kind != self.recipe.translator.reads and first[kind] == name]
        return [self.layout.comparison(name) for name in names]

    def settings(self) -> dict[str, Any]:
        return self.recipe.plain["certificate"]

    def results(self) -> tuple[Path, ...]:
        return (self.layout.certificate,)

    def inputs(self) -> Iterator[str]:
        yield from map(str, (self.layout.evaluation, self.layout.translator, *self._rivals()))

    def models(self) -> Iterator[tuple[str, str]]:
        yield "subject", self.recipe.subject

    def size(self) -> str:
        n = 4 + len(self._rivals()) + (len(PARTS) if self.recipe.translator.reads == "both" else 0)
        return f"{n} other things are read in the place of each soft prompt"

    def work(self, job: Job) -> None:
        """Read them."""
        found = certify(self.layout.evaluation, self.recipe.certificate, None, self._rivals(), job.log)
        for sentence in found.sentences():
            job.log(f"certificate: {sentence}")


class TransferStage(Stage):
    """The evaluation's prompts on models behind an API."""

    name = "transfer"
    needs = ("evaluation",)

    @classmethod
    def is_in(cls, recipe: Recipe) -> bool:
        return recipe.transfer is not None

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in self.recipe.plain["transfer"].items() if key not in _SENDING}

    def results(self) -> tuple[Path, ...]:
        return (self.layout.transfer,)

    def writes(self) -> tuple[Path, ...]:
        return (self.layout.ledger, self.layout.transfer)

    def inputs(self) -> Iterator[str]:
        yield str(self.layout.evaluation)
        yield from (f"{model.name} at {model.base_url}" for model in self.recipe.transfer.models)

    def models(self) -> Iterator[tuple[str, str]]:
        if self.recipe.transfer.serve is not None:
            yield "transfer.serve", self.recipe.transfer.serve

    def check(self) -> None:
        """Raise UserError where a key is missing."""
        for model in self.recipe.transfer.api_models:
            read_key(model)

    def size(self) -> str:
        asked, evaluated = self.recipe.transfer, EvaluationStage(self.recipe, self.layout)
        tasks, config = evaluated.tasks, self.recipe.evaluation
        methods = len(asked.methods or config.methods) + len(set(asked.references) - set(asked.methods))
        examples = fmean(len(task.test) for task in tasks) if tasks else asked.n_examples
        if examples is None:
            return "as many requests as the tasks have test examples; time and price are the API's"
        examples = min(examples, asked.n_examples or examples)
        models = len(asked.models) + (asked.serve is not None)
        cells = methods * (len(tasks) or config.tasks.n) * len(config.seeds) * examples * asked.repeats * models
        return f"{cells:,.0f} requests at most; time and price are the API's"

    def work(self, job: Job) -> str | None:
        """Ask; what is answered is saved in any case. Raises UserError where a model cannot be asked."""
        asked = self.recipe.transfer
        if asked.serve and not can_serve():
            return "the server's packages are missing; run pip install 'soft2hard[serving]', and this command again"
        with self._models() as models, Ledger(self.layout.ledger) as ledger:
            found = gather(self.layout.evaluation, asked, references=asked.references, seed=self.recipe.seed)
            return self._ask(job, found, models, ledger)

    @contextmanager
    def _models(self) -> Iterator[list[ApiModel]]:
        """The models that are asked, while the one that is served here answers."""
        asked = self.recipe.transfer
        if asked.serve is None:
            yield asked.api_models
            return
        path = Path(self.path_of("transfer.serve", asked.serve))
        with served(path, asked.port, self.layout.served) as server:
            here = ApiModel(server.name, server.base_url, "completion", label=SERVED_LABEL)
            yield [here, *asked.api_models]

    def _ask(self, job: Job, material: Material, models: list[ApiModel], ledger: Ledger) -> str | None:
        asked = material.choices
        cells = plan(material.prompts, material.tasks, models, asked, seed=self.recipe.seed)
        total = sum(len(distinct_requests(cells, model)) for model in models)
        done = 0

        def on_settled(_: str, n: int) -> None:
            nonlocal done
            done += n
            job.on_progress("transfer, answers", done, total)

        delivery = Transfer(cells, ledger, read_prices(), asked, on_settled=on_settled, log=job.log).run()
        collect(cells, ledger, material.soft_scores).save(self.layout.transfer)
        if delivery.stopped:
            raise delivery.stopped[0]
        if delivery.over_budget:
            return f"stopped before max_cost {asked.max_cost:g} might have been passed; raise it to continue"
        n_faults = sum(delivery.faults.values())
        return f"{n_faults} requests were given up; run this command again to ask them once more" if n_faults else None


class ReportStage(Stage):
    """Page and summary, with the transfer where there is one."""

    name = "report"
    needs = ("evaluation",)

    @property
    def follows(self) -> tuple[str, ...]:
        further = {"certificate": self.recipe.certificate, "transfer": self.recipe.transfer}
        return ("evaluation", *(name for name, asked in further.items() if asked is not None))

    def settings(self) -> dict[str, Any]:
        return {}

    def results(self) -> tuple[Path, ...]:
        return (self.layout.report, self.layout.report.with_suffix(".md"))

    def inputs(self) -> Iterator[str]:
        read = {"evaluation": self.layout.evaluation, "transfer": self.layout.transfer}
        yield from (str(path) for name, path in read.items() if name in self.follows)

    def size(self) -> str:
        return "one page, seconds"

    def work(self, job: Job) -> None:
        """Write them."""
        transfers = [TransferResult.load(self.layout.transfer)] if self.layout.transfer.exists() else []
        for path in write_report([load_run(self.layout.evaluation)], self.layout.report, transfers):
            job.log(f"report: {path}")
