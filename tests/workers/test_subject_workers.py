"""Work shared out among processes that each hold the subject: the same results, and ends that are clean."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import TuningJob, tune_jobs
from soft2hard.errors import UserError
from soft2hard.eval.analysis import transfer_matrix
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers import subject_workers
from soft2hard.workers.subject_workers import SubjectWorkers, usual_workers
from tests import worker_tasks
from tests.written_tasks import prompts, written_tasks

SUBJECT = worker_tasks.subject()
ALONE = SubjectWorkers(SUBJECT)


def task(name: str, n: int) -> Task:
    examples = tuple(Example(text, text.split()[0]) for text in ("one two", "two red", "three", "four blue cat"))
    return Task(name, "tiny", "", (), examples, examples, examples[:n])


TASKS = tuple(task(f"t{i}", 1 + i % 4) for i in range(5))
CONFIG = Tuning(n_tokens=3, steps=4, batch_size=2, eval_every=2, init="vocabulary", lr=0.1)


@pytest.fixture(scope="module")
def two():
    with SubjectWorkers(SUBJECT, 2, worker_tasks.subject) as workers:
        yield workers


def test_work_is_done_by_processes_that_hold_the_subject(two: SubjectWorkers) -> None:
    told: list[int] = []
    found = dict(two.map(worker_tasks.who, range(6), told.append))
    assert {number: square for number, (square, _, _) in found.items()} == {i: i**2 for i in range(6)}
    assert {name for _, _, name in found.values()} == {SUBJECT.name}
    assert os.getpid() not in {pid for _, pid, _ in found.values()}
    assert sum(told) == sum(range(6))


def test_a_single_piece_of_work_is_done_here(two: SubjectWorkers) -> None:
    ((_, (_, pid, _)),) = two.map(worker_tasks.who, [3])
    assert pid == os.getpid()


def test_two_processes_tune_what_one_tunes(two: SubjectWorkers) -> None:
    jobs = [TuningJob(TASKS, CONFIG, (2,), init_seed=3, order_seed=4), TuningJob(TASKS[:3], CONFIG)]
    expected, found = (dict(tune_jobs(workers, jobs)) for workers in (ALONE, two))
    assert [list(found[i]) for i in range(2)] == [[task.name for task in job.tasks] for job in jobs]
    for number, of_job in expected.items():
        for name, tuned in of_job.items():
            other = found[number][name]
            assert torch.allclose(tuned.soft_prompt.embeddings, other.soft_prompt.embeddings, atol=1e-5)
            assert tuned.soft_prompt.provenance.keys() == other.soft_prompt.provenance.keys()
            assert dict(tuned.losses) == pytest.approx(dict(other.losses), abs=1e-4)


def test_a_job_for_two_is_cut_in_two_and_starts_go_with_their_tasks(two: SubjectWorkers) -> None:
    starts = {one.name: SoftPrompt(torch.full((3, SUBJECT.d_model), float(i))) for i, one in enumerate(TASKS)}
    job = TuningJob(TASKS, Tuning(**vars(CONFIG) | {"lr": 1e-9}), starts=starts)
    assert sorted(len(part.tasks) for part in job.parts(2)) == [2, 3]
    steps: list[int] = []
    ((number, found),) = tune_jobs(two, [job], steps.append)
    assert number == 0 and sum(steps) >= CONFIG.steps * len(TASKS)
    for name, start in starts.items():
        assert torch.allclose(found[name].soft_prompt.embeddings, start.embeddings, atol=1e-5)


def test_a_shared_matrix_is_the_matrix(two: SubjectWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_matrix, "_WORTH_SHARING", 0)
    whole = transfer_matrix.transfer_matrix(SUBJECT, prompts(SUBJECT), written_tasks(SUBJECT))
    shared = transfer_matrix.shared_transfer_matrix(two, prompts(SUBJECT), written_tasks(SUBJECT))
    assert (whole.accuracy == shared.accuracy).all() and (whole.baseline == shared.baseline).all()
    assert len(np.unique(whole.accuracy)) > 1


def test_an_error_of_the_users_comes_back_as_itself(two: SubjectWorkers) -> None:
    with pytest.raises(UserError, match="One is no number"):
        dict(two.map(worker_tasks.refuse, range(3)))


def test_a_lost_process_is_said_with_a_remedy() -> None:
    with pytest.raises(UserError, match="worker process has ended.*fewer --workers"):
        with SubjectWorkers(SUBJECT, 2, worker_tasks.subject) as workers:
            dict(workers.map(worker_tasks.die, range(2)))


def test_an_error_ends_the_others_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="This one fails"):
        with SubjectWorkers(SUBJECT, 2, worker_tasks.subject) as workers:
            dict(workers.map(worker_tasks.wait_for_ever, [tmp_path / "fail", tmp_path / "wait"]))
    (noted,) = tmp_path.glob("pid-*")
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.name.removeprefix("pid-")), 0)


def test_a_subject_that_has_become_another_is_refused() -> None:
    subject_workers._hold_subject(partial(worker_tasks.subject, 1), SUBJECT.fingerprint, None)
    with pytest.raises(UserError, match="files have changed"):
        subject_workers._own_subject()


def test_no_workers_do_no_work() -> None:
    with pytest.raises(UserError, match="0 workers"):
        SubjectWorkers(SUBJECT, 0)


def test_a_small_subject_on_a_cpu_is_worth_a_process_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soft2hard.workers.subject_workers.available_cores", lambda: 3)
    assert usual_workers(SUBJECT) == 3
    monkeypatch.setattr("soft2hard.workers.subject_workers._SMALL", 10)
    assert usual_workers(SUBJECT) == 1
