"""A certificate's figures are means over tasks, its sentences say what the figures say, and its file is read back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from soft2hard.errors import UserError
from soft2hard.eval import certificate as module
from soft2hard.eval.certificate import (
    FILE,
    MATCHED,
    NOISE,
    OTHER,
    PARTS,
    RIVALS,
    SHUFFLED,
    Certificate,
    CertificateSettings,
    TaskReading,
    WaywardReading,
    load,
    pooled,
    save,
)
from soft2hard.eval.report import load_run
from tests.command_line import run as command
from tests.report_runs import write_run

TASKS = [f"task {i}" for i in range(8)]
JITTER = [0.1, -0.1, 0.2, -0.2, 0.05, -0.05, 0.15, -0.15]


def reading(read: str, task: str, nll: float, seed: int = 0, **more: object) -> TaskReading:
    return TaskReading(read, task, seed, nll, **{"text": "Say it.", "rougeL": 0.5, "score": 0.5} | more)


def certificate(readings: Sequence[TaskReading], **more: object) -> Certificate:
    soft = {f"{one.seed}/{one.task}": 0.8 for one in readings}
    return Certificate(
        **{
            "translator": "mine",
            "rivals": {},
            "settings": CertificateSettings(wayward=1),
            "readings": tuple(readings),
            "soft_scores": soft,
        }
        | more
    )


def of_reads(**nlls: Sequence[float]) -> list[TaskReading]:
    """What is read by its constant's name, with the NLL of each task."""
    return [
        reading(vars(module).get(read, read), task, nll)
        for read, values in nlls.items()
        for task, nll in zip(TASKS, values, strict=True)
    ]


OWN = [1 + jitter for jitter in JITTER]
WORSE = [2 - jitter for jitter in JITTER]
ALIKE = [1 - jitter for jitter in JITTER]
BETTER = [0.5 + jitter for jitter in JITTER]


# --- figures ----------------------------------------------------------------------------------------


def test_figures_of_a_task_are_means_over_its_seeds_and_those_without_one_are_left_out() -> None:
    found = certificate(
        [
            reading(MATCHED, "a", 1.0, seed=0, score=0.2),
            reading(MATCHED, "a", 3.0, seed=1, score=None),
            reading(MATCHED, "b", 4.0, seed=0, score=None),
            reading(OTHER, "a", 9.0),
        ]
    )
    assert found.reads == (MATCHED, OTHER)
    assert found.values(MATCHED, "nll") == {"a": 2.0, "b": 4.0}
    assert found.values(MATCHED, "score") == {"a": 0.2}
    assert found.interval(MATCHED, "nll").value == pytest.approx(3.0)
    assert found.values(NOISE, "nll") == {} and found.interval(NOISE, "nll") is None
    assert found.interval(MATCHED, "verified_rougeL") is None  # nothing was verified


def test_scores_are_told_as_recovery_over_the_tasks_that_have_both() -> None:
    readings = [reading(MATCHED, task, 1.0, score=score) for task, score in (("a", 0.2), ("b", 0.4), ("c", 0.9))]
    soft = {"0/a": 0.4, "1/a": 0.6, "0/b": 0.7}
    found = certificate(readings, soft_scores=soft)
    assert found.interval(MATCHED, "score").value == pytest.approx((0.2 + 0.4) / (0.5 + 0.7))
    assert found.interval(MATCHED, "rougeL").value == pytest.approx(0.5)  # this one over all three
    assert certificate(readings, soft_scores={"0/a": 0.0, "0/b": 0.0}).interval(MATCHED, "score") is None
    assert certificate(readings, soft_scores={}).interval(MATCHED, "score") is None


def test_a_task_name_may_hold_the_sign_that_parts_it_from_its_seed() -> None:
    found = certificate([reading(MATCHED, "relations/adj_antonym", 1.0, score=0.3)])
    assert found.interval(MATCHED, "score").value == pytest.approx(0.3 / 0.8)


def test_differences_are_of_the_other_less_the_soft_prompt_over_the_same_tasks() -> None:
    readings = [reading(MATCHED, task, nll) for task, nll in (("a", 1.0), ("b", 2.0), ("c", 7.0))]
    readings += [reading(OTHER, task, nll) for task, nll in (("a", 2.0), ("b", 5.0), ("d", 9.0))]
    found = certificate(readings).difference(OTHER, "nll")
    assert (found.difference.value, found.n_tasks) == (pytest.approx(2.0), 2)
    assert certificate(readings).difference(NOISE, "nll") is None


def test_certificates_of_several_runs_are_one_over_all_their_tasks() -> None:
    one = certificate(of_reads(MATCHED=OWN, OTHER=WORSE))
    other = certificate([reading(MATCHED, "new", 4.0, score=0.4), reading(OTHER, "new", 5.0)])
    both = pooled([one, other])
    assert both.n_tasks == len(TASKS) + 1
    assert both.interval(MATCHED, "nll").value == pytest.approx((sum(OWN) + 4) / 9)
    assert both.difference(OTHER, "nll").difference.value == pytest.approx((sum(WORSE) - sum(OWN) + 1) / 9)
    assert both.interval(MATCHED, "score").value == pytest.approx((8 * 0.5 + 0.4) / (9 * 0.8))


# --- sentences --------------------------------------------------------------------------------------


def test_where_all_else_makes_the_gold_text_less_likely_the_translator_reads_the_vectors() -> None:
    [said] = certificate(of_reads(MATCHED=OWN, OTHER=WORSE, SHUFFLED=WORSE)).sentences()
    assert said.endswith("each of 2 of 2 things in its place: the translator reads the vectors.")


@pytest.mark.parametrize("nlls", [ALIKE, BETTER, OWN])
def test_what_is_not_clearly_worse_to_read_is_named_and_nothing_is_certified(nlls: list[float]) -> None:
    [said] = certificate(of_reads(MATCHED=OWN, OTHER=WORSE, SHUFFLED=nlls)).sentences()
    assert said.endswith(f"each of 1 of 2 things in its place, but not than given: {SHUFFLED}.")
    [said] = certificate(of_reads(MATCHED=OWN, OTHER=nlls)).sentences()
    assert "0 of 1 things" in said and "reads the vectors" not in said


@pytest.mark.parametrize(
    ("nlls", "said"), [(WORSE, "clearly less likely"), (BETTER, "clearly more likely"), (ALIKE, "about as likely")]
)
@pytest.mark.parametrize("name", RIVALS.values())
def test_each_rival_is_told_whichever_way_it_goes(name: str, nlls: list[float], said: str) -> None:
    readings = of_reads(MATCHED=OWN) + [reading(name, task, nll) for task, nll in zip(TASKS, nlls, strict=True)]
    [sentence] = certificate(readings).sentences()
    assert sentence.startswith(f"Given {name}, the gold text is {said}")
    mean = sum(nlls) / 8 - 1
    assert f"{mean:.3f} [" in sentence


@pytest.mark.parametrize(("nlls", "said"), [(WORSE, "clearly less likely"), (ALIKE, "about as likely")])
@pytest.mark.parametrize("part", PARTS)
def test_what_vectors_and_acts_are_worth_each_is_told_apart_from_what_is_in_their_place(
    part: str, nlls: list[float], said: str
) -> None:
    readings = of_reads(MATCHED=OWN, OTHER=WORSE)
    readings += [reading(part, task, nll) for task, nll in zip(TASKS, nlls, strict=True)]
    first, second = certificate(readings).sentences()
    assert first.endswith("each of 1 of 1 things in its place: the translator reads the soft prompt.")
    assert second.startswith(f"Given {part}, the gold text is {said}")


def wayward(task: str, is_own: bool) -> WaywardReading:
    return WaywardReading(task, "other", 0.3, 1.0, 0.5, 1.0, 2.0, "Say it.", is_own)


def test_wayward_prompts_are_counted() -> None:
    found = certificate(of_reads(MATCHED=OWN), wayward=(wayward("a", True), wayward("b", False), wayward("c", True)))
    [said] = found.sentences()
    assert said.startswith("Of 3 soft prompts") and "2 are read as their own task's" in said
    assert certificate(of_reads(MATCHED=OWN)).sentences() == []


def test_of_few_tasks_nothing_is_claimed() -> None:
    few = [one for one in of_reads(MATCHED=OWN, OTHER=WORSE, VECTORS_ALONE=WORSE) if one.task in TASKS[:5]]
    said = certificate(few).sentences()
    assert said[0] == "5 tasks are too few to say whether the translator reads soft prompts."
    assert "too few tasks were read" in said[1] and len(said) == 2


# --- on disk ----------------------------------------------------------------------------------------


@pytest.fixture
def made() -> Certificate:
    """With every kind of field."""
    readings = [*of_reads(MATCHED=OWN, OTHER=WORSE), reading(NOISE, "x", 1.5, score=None, verified_text="Say é.")]
    return certificate(
        readings, rivals={"examples": "there"}, wayward=(wayward("a", True),), made_with={"commit": None}
    )


def test_what_is_saved_is_read_back(made: Certificate, tmp_path: Path) -> None:
    assert load(tmp_path) is None
    assert save(made, tmp_path) == tmp_path / FILE
    assert load(tmp_path) == made


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"text"', "{}", '{"schema_version": 1}', '{"schema_version": "one"}'],
)
def test_a_damaged_certificate_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="certificate.json is damaged") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", [{"readings": [{"read": "a"}]}, {"soft_scores": 3}, {"settings": {"probes": -1}}])
def test_a_certificate_of_other_fields_is_refused(damage: dict, made: Certificate, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"schema_version": 1} | asdict(made) | damage))
    with pytest.raises(UserError, match="certificate.json is damaged"):
        load(tmp_path)


def test_one_of_a_later_schema_asks_for_an_update(made: Certificate, tmp_path: Path) -> None:
    save(made, tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | {"schema_version": 2, "new": True}))
    with pytest.raises(UserError, match="later soft2hard.*Update"):
        load(tmp_path)


# --- in the report ----------------------------------------------------------------------------------


def test_a_report_shows_the_certificate_of_its_run_and_no_section_without_one(
    made: Certificate, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run")
    assert command("report", folder).exit_code == 0
    assert "Does it read the vectors?" not in (folder / "report.md").read_text()
    save(made, folder)
    assert load_run(folder).certificate == made
    assert command("report", folder).exit_code == 0
    text, page = ((folder / name).read_text() for name in ("report.md", "report.html"))
    for part in ("Does it read the vectors?", "NLL of the gold text", "tuned close to", "ROUGE-L"):
        assert part in text and part in page
    assert "Wayward soft prompts" in page
    assert made.sentences()[0] in text
    rows = [line for line in text.splitlines() if line.startswith(f"| {OTHER} ")]
    assert [str(made.interval(OTHER, "nll")) in row for row in rows] == [True, False]
    assert str(made.difference(OTHER, "nll").difference) in rows[1]


def test_a_report_of_a_damaged_certificate_is_refused_in_one_line(made: Certificate, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    save(replace(made, readings=()), folder)
    assert load_run(folder).certificate.reads == ()
    (folder / FILE).write_text("[]")
    refused = command("report", folder)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "certificate.json is damaged" in refused.stderr
