"""Methods that differ in one option alone, found in a run's record and drawn in its report."""

from dataclasses import replace
from pathlib import Path

from soft2hard.eval.report import load_run
from soft2hard.eval.report.ablations import ablations
from soft2hard.eval.report.sections import contents
from soft2hard.eval.run_records import MethodRecord, ResultRow
from tests.report_runs import record_of, rows_of, write_run


def pin(label: str, **options: object) -> MethodRecord:
    return MethodRecord(label, "pin", "arXiv 2407.14733", {"steps": 30, **options})


RECORDS = [
    pin("base"),
    pin("wide", k=20000),
    pin("all", k=50272),
    pin("longer, wide", k=20000, n_tokens=9),
    pin("sharp", reward_scale=5.0),
    pin("base in other words", k=10_000, reward_scale=1),
    pin("own", policy="reference"),
    pin("other", policy="opt"),
    MethodRecord("few-shot", "few-shot", "x", {"k": 8}),
]


def test_curves_are_the_settings_alike_but_for_one_option_defaults_filled_in():
    found = {one.option: one for one in ablations(RECORDS)}
    by_k, by_policy = found["k"], found["policy"]
    assert len(found) == 2
    assert (by_k.option, by_k.values, by_k.labels) == ("k", (10_000, 20_000, 50_272), ("base", "wide", "all"))
    assert by_k.is_numeric and not by_k.spans_magnitudes
    assert (by_policy.option, by_policy.values) == ("policy", (None, "reference", "opt"))
    assert not by_policy.is_numeric
    pairs = {one.option for one in ablations(RECORDS, least=2)}
    assert pairs == {"k", "policy", "reward_scale", "n_tokens"}
    assert ablations([MethodRecord("x", "a method of before", "x", {"k": k}) for k in (1, 2)]) == []


def test_the_report_draws_the_score_by_a_numerical_option(tmp_path: Path):
    rows: list[ResultRow] = [
        replace(row, method=f"k {k}", score=score)
        for k, score in ((100, 0.2), (1000, 0.4), (10_000, 0.8))
        for row in rows_of()
        if row.method == "pez"
    ]
    methods = tuple(pin(f"k {k}", k=k) for k in (10_000, 100, 1000))
    run = load_run(write_run(tmp_path / "run", rows, replace(record_of(rows), methods=methods)))
    section = next(part for part in contents(run, [], ()) if part.title == "Options")
    (chart,) = section.charts
    assert list(chart.data[0].x) == [100, 1000, 10_000]
    assert [round(y, 6) for y in chart.data[0].y] == [0.2, 0.4, 0.8]
    assert chart.layout.xaxis.type == "log" and chart.layout.xaxis.title.text == "k (log)"
    assert [row[2] for row in section.tables[0].rows] == ["100", "1000", "10000"]


def test_a_run_without_such_methods_has_no_such_section(tmp_path: Path):
    run = load_run(write_run(tmp_path / "run"))
    assert "Options" not in {part.title for part in contents(run, [], ())}
