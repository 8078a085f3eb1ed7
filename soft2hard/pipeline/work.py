"""What each stage does. Every one goes on where it was stopped: by shards, epochs, cells or answers."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import datasets

from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.compute.memory import free_memory
from soft2hard.data_gen.corpus import load_corpus
from soft2hard.errors import UserError, first_line
from soft2hard.eval.fan_out import run_evaluation
from soft2hard.eval.report import load_run, write_report
from soft2hard.eval.transfer.delivery import Sending, Transfer
from soft2hard.eval.transfer.material import Material, Wanted, gather
from soft2hard.eval.transfer.plan import Asking, distinct_requests, plan
from soft2hard.eval.transfer.results import TransferResult, collect
from soft2hard.eval.transfer.serving import can_serve, served
from soft2hard.lm.loading import Loading
from soft2hard.lm.subject import Subject
from soft2hard.pipeline.corpora import make_corpora
from soft2hard.pipeline.job import Job
from soft2hard.pipeline.layout import Layout
from soft2hard.pipeline.recipe import TransferSettings
from soft2hard.storage.names import located
from soft2hard.translator.model import Translator
from soft2hard.translator.training import needs_subject, train_translator

__all__ = ["Job", "evaluate", "make_corpora", "make_translator", "report", "transfer"]

SERVED_LABEL = "API-side model"
"""What tables call the model that is served here."""


# --- translator -------------------------------------------------------------------------------


def make_translator(job: Job) -> None:
    """Train the translator on the train corpora, stopped by the validation corpora."""
    subject = Subject.from_pretrained(job.recipe.subject, loading=Loading(**job.recipe.loading))
    subject.name = job.recipe.subject  # for the card: the path of the package means nothing on another machine
    train = _corpora(job, "train", snapshots=True)
    validation = _corpora(job, "validation", snapshots=False)
    try:
        translator = Translator.for_subject(subject, job.recipe.translator.design)
    except (OSError, ValueError) as error:
        base = job.recipe.translator.base or job.recipe.subject
        raise UserError(
            f"No translator can be made from '{base}' ({first_line(error)}).", "Name another as translator.base."
        ) from error
    if not needs_subject(translator, job.recipe.training):
        subject = None  # its memory is better used in training
        free_memory()
    with redirect_stdout(sys.stderr):  # the Trainer prints its log
        train_translator(translator, train, validation, job.recipe.training, job.layout.training, subject=subject)


def _corpora(job: Job, split: str, snapshots: bool) -> datasets.Dataset:
    names = job.recipe.of_split(split)
    return datasets.concatenate_datasets(
        [load_corpus(job.layout.corpora / name, snapshots=snapshots) for name in names]
    )


# --- evaluation and report --------------------------------------------------------------------


def evaluate(job: Job) -> None:
    """Run the evaluation with the translator that was made.

    Raises UserError where the record is gone that says whose the cells are.
    """
    if (job.layout.evaluation / "cells").exists() and not (job.layout.evaluation / "run.json").exists():
        raise UserError(
            f"{job.layout.evaluation / 'run.json'} is gone, so what lies beside it cannot be gone on with.",
            f"Remove the folder {job.layout.evaluation}, and run this command again: it is made anew.",
        )
    translator = str(job.layout.translator.resolve())
    config = job.recipe.evaluation.model_copy(update={"translator": translator})

    def on_cell(done: int, total: int) -> None:
        job.on_progress("evaluation, cells", done, total)

    rows = run_evaluation(config, job.layout.evaluation, job.log, on_cell, job.workers, cluster=job.cluster)
    failed = sum(row.failure is not None for row in rows)
    job.log(f"evaluation: {len(rows)} cells, {failed} of them failed")


def report(job: Job) -> None:
    """Write page and summary, with the transfer where there is one."""
    transfers = [TransferResult.load(job.layout.transfer)] if job.layout.transfer.exists() else []
    for path in write_report([load_run(job.layout.evaluation)], job.layout.report, transfers):
        job.log(f"report: {path}")


# --- transfer ---------------------------------------------------------------------------------


def transfer(job: Job) -> str | None:
    """Ask the API models with the evaluation's prompts; returns what is left to do, if anything is.

    Raises UserError where a model cannot be asked.
    """
    settings = job.recipe.transfer
    assert settings is not None
    if settings.serve and not can_serve():
        return "the server's packages are missing; run pip install 'soft2hard[serving]', and this command again"
    wanted = Wanted(
        job.layout.evaluation,
        references=settings.references,
        shots=settings.shots,
        seed=job.recipe.seed,
        methods=settings.methods,
        n_examples=settings.n_examples,
    )
    with _models(settings, job.layout) as models, Ledger(job.layout.ledger) as ledger:
        return _ask(job, settings, gather(wanted), models, ledger)


@contextmanager
def _models(settings: TransferSettings, layout: Layout) -> Iterator[list[ApiModel]]:
    """The models that are asked, while the one that is served here answers."""
    if settings.serve is None:
        yield settings.api_models
        return
    path = Path(located(settings.serve, "api_model"))
    with served(path, settings.port, layout.served) as server:
        here = ApiModel(server.name, server.base_url, "completion", label=SERVED_LABEL)
        yield [here, *settings.api_models]


def _ask(
    job: Job, settings: TransferSettings, material: Material, models: list[ApiModel], ledger: Ledger
) -> str | None:
    """What is answered is saved in any case."""
    asking = Asking(max_tokens=settings.max_tokens, repeats=settings.repeats, seed=job.recipe.seed)
    cells = plan(material.prompts, material.tasks, models, asking)
    total = sum(len(distinct_requests(cells, model)) for model in models)
    done = 0

    def on_settled(_: str, n: int) -> None:
        nonlocal done
        done += n
        job.on_progress("transfer, answers", done, total)

    sending = Sending(settings.concurrency, settings.max_cost, settings.batch)
    delivery = Transfer(cells, ledger, read_prices(), sending, on_settled, job.log).run()
    collect(cells, ledger, material.soft_scores).save(job.layout.transfer)
    if delivery.stopped:
        raise delivery.stopped[0]
    if delivery.over_budget:
        return f"stopped before max_cost {settings.max_cost:g} might have been passed; raise it to go on"
    n_faults = sum(delivery.faults.values())
    return f"{n_faults} requests were given up; run this command again to ask them once more" if n_faults else None
