"""Along the line between two soft prompts scores and words are those of its points; planted lines are flat."""

import pytest

from soft2hard.errors import UserError
from soft2hard.eval.analysis.interpolation import Ends, barrier, interpolate, pair_up
from soft2hard.eval.analysis.positions import interpolated
from soft2hard.eval.metrics.measurement import Comparison, measure
from tests import tiny_models
from tests.planted_prompts import own_task, reader, spoken

SUBJECT = tiny_models.subject("llama")
TEXTS = ("cat red up", "dog blue down", "fish green left", "bird red two", "one big right")
PROMPTS = [spoken(SUBJECT, text) for text in TEXTS]
TASKS = [own_task(SUBJECT, f"t{i}", prompt) for i, prompt in enumerate(PROMPTS)]
READ_ALL = reader(SUBJECT, [0, 1, 2])


def test_within_a_kind_no_task_is_in_two_pairs() -> None:
    tasks = [task for task in TASKS for _ in range(3)]
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    pairs = pair_up(tasks, prompts, seed=3)
    one = [pair for pair in pairs if pair.kind == "one task"]
    two = [pair for pair in pairs if pair.kind == "two tasks"]
    assert sorted(pair.first_task.name for pair in one) == ["t0", "t1", "t2", "t3", "t4"]
    used = [task.name for pair in two for task in (pair.first_task, pair.second_task)]
    assert len(used) == len(set(used)) == 4
    own = dict(zip((task.name for task in TASKS), PROMPTS, strict=True))
    assert all(pair.first is own[pair.first_task.name] and pair.second is own[pair.second_task.name] for pair in two)


def test_scores_are_those_of_the_points_measured_alone() -> None:
    pair = Ends(PROMPTS[0], PROMPTS[1], TASKS[0], TASKS[1])
    found = interpolate(SUBJECT, [pair, Ends(PROMPTS[2], PROMPTS[3], TASKS[2], TASKS[3])], READ_ALL, n_points=5)
    path = found.paths[0]
    for point, expected in zip(path.points, interpolated(pair.first, pair.second, 5), strict=True):
        for task, score in ((TASKS[0], point.first_score), (TASKS[1], point.second_score)):
            [[alone]] = measure(SUBJECT, [Comparison(task, (expected.soft_prompt,))])
            assert score == alone.score
        assert point.text == READ_ALL([expected.soft_prompt])[0]
    assert (path.points[0].first_score, path.points[-1].second_score) == (1, 1)
    assert [p.says for p in (path.points[0], path.points[-1])] == ["first", "second"]


def test_curves_are_means_over_the_pairs_of_a_kind() -> None:
    pairs = pair_up(TASKS[:4] * 2, PROMPTS[:4] * 2)
    found = interpolate(SUBJECT, pairs, READ_ALL, n_points=3)
    assert [(kind.kind, kind.n_pairs) for kind in found.kinds] == [("one task", 4), ("two tasks", 2)]
    middle = [path.points[1] for path in found.paths if path.kind == "two tasks"]
    (curve,) = [c for c in found.curves if c.kind == "two tasks" and c.share == 0.5]
    assert curve.second_score.value == pytest.approx(sum(point.second_score for point in middle) / 2)
    assert curve.says_other.value == sum(point.says == "other" for point in middle) / 2
    ends = [c for c in found.curves if c.kind == "two tasks" and c.share in (0, 1)]
    assert [(c.says_first.value, c.says_second.value, c.says_other.value) for c in ends] == [(1, 0, 0), (0, 1, 0)]


def test_between_identical_prompts_nothing_changes() -> None:
    (path,) = interpolate(SUBJECT, [Ends(PROMPTS[0], PROMPTS[0], TASKS[0], TASKS[0])], READ_ALL).paths
    assert len(path.points) == 9 and path.barrier == 0
    assert {(point.first_score, point.second_score, point.says) for point in path.points} == {(1, 1, "both")}


def test_a_barrier_is_the_deepest_fall_below_the_straight_line() -> None:
    assert barrier([0.0, 0.5, 1.0], [1.0, 0.2, 0.6]) == pytest.approx(0.8 - 0.2)
    assert barrier([0.0, 0.5, 1.0], [0.2, 0.9, 0.4]) == 0
    assert barrier([0.0, 0.25, 0.5, 0.75, 1.0], [1.0, 0.75, 0.5, 0.25, 0.0]) == pytest.approx(0)


def test_without_a_translator_there_are_scores_alone() -> None:
    found = interpolate(SUBJECT, [Ends(PROMPTS[0], PROMPTS[1], TASKS[0], TASKS[1])], n_points=2)
    assert {(p.text, p.says) for p in found.paths[0].points} == {(None, None)} and found.curves[0].says_first is None


def test_pairs_without_room_are_left_out_and_counted() -> None:
    long = spoken(SUBJECT, " ".join(["cat"] * 62))
    pairs = [Ends(long, long, TASKS[0], TASKS[0]), Ends(PROMPTS[0], PROMPTS[1], TASKS[0], TASKS[1])]
    assert interpolate(SUBJECT, pairs, n_points=2).n_left_out == 1
    with pytest.raises(UserError, match="No pair of soft prompts fits"):
        interpolate(SUBJECT, pairs[:1], n_points=2)


def test_what_has_no_line_is_refused() -> None:
    with pytest.raises(UserError, match="no line to another"):
        pair_up(TASKS[:1], PROMPTS[:1])
    with pytest.raises(UserError, match="no pairs"):
        interpolate(SUBJECT, [])
    with pytest.raises(UserError, match="from 3 to 1 tokens"):
        interpolate(SUBJECT, [Ends(PROMPTS[0], spoken(SUBJECT, "cat"), TASKS[0], TASKS[1])])
