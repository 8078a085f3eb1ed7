"""A folder belongs to one piece of work, which alone may resume it; what a crash leaves is repaired or said plainly."""

import json
from pathlib import Path

import pytest

from soft2hard.errors import UserError
from soft2hard.storage import run_folders
from soft2hard.storage.run_folders import Kind, Record, claim, differences, made_with


def identity(record: Record) -> Record:
    return {"depth": 1} | record["settings"] | {"inputs": record.get("inputs", {})}


WORK = Kind("a work", "work.json", identity)
PART = Kind("a part", "part.json", identity, alone=False)
RECORD = {"settings": {"lr": 0.1, "layers": (1, 2), "tuning": {"steps": 4}}, "inputs": {"tasks": "a", "model": "b"}}


def changed(**settings: object) -> Record:
    return RECORD | {"settings": RECORD["settings"] | settings}


def test_a_folder_is_begun_with_a_record_that_people_can_read_and_resumed_by_the_same(tmp_path: Path) -> None:
    assert claim(tmp_path / "new", WORK, RECORD | made_with()) is None
    found = json.loads((tmp_path / "new" / "work.json").read_text())
    assert found["settings"]["layers"] == [1, 2] and found["versions"]["torch"] and found["created"]
    (tmp_path / "new" / "result").write_text("made")
    assert claim(tmp_path / "new", WORK, RECORD | {"versions": {}}) == found
    assert (tmp_path / "new" / "result").read_text() == "made"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (changed(lr=0.2, tuning={"steps": 5}), r"holds a work made with other settings \(lr, tuning.steps\)"),
        (changed(layers=(1, 3)), r"other settings \(layers\)"),
        (changed(new=1), r"other settings \(new\)"),
        (RECORD | {"inputs": {"tasks": "z", "model": "y"}}, "What a work in .* has changed since: model, tasks"),
    ],
)
def test_other_settings_and_other_inputs_are_refused_and_named(tmp_path: Path, other: Record, said: str) -> None:
    claim(tmp_path, WORK, RECORD)
    before = (tmp_path / "work.json").read_text()
    with pytest.raises(UserError, match=said) as caught:
        claim(tmp_path, WORK, other)
    assert "\n" not in str(caught.value) and (tmp_path / "work.json").read_text() == before


def test_a_record_from_before_a_setting_was_there_has_its_default(tmp_path: Path) -> None:
    claim(tmp_path, WORK, RECORD)
    assert claim(tmp_path, WORK, changed(depth=1)) is not None
    with pytest.raises(UserError, match=r"other settings \(depth\)"):
        claim(tmp_path, WORK, changed(depth=2))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("work.json", "{", "work.json is damaged"),
        ("work.json", "[]", "in use by something else: .*work.json is of another command"),
        ("work.json", '{"config": 3}', "in use by something else: .*work.json is of another command"),
        ("thesis.txt", "years", "in use by something else"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        claim(tmp_path, WORK, RECORD)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, text)]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        claim(tmp_path / "file", WORK, RECORD)


def test_a_part_of_a_work_may_share_the_folder(tmp_path: Path) -> None:
    claim(tmp_path, WORK, RECORD)
    assert claim(tmp_path, PART, RECORD) is None
    assert claim(tmp_path, PART, RECORD) == claim(tmp_path, WORK, RECORD)


def test_a_kill_while_the_record_was_written_leaves_a_folder_that_can_be_begun(tmp_path: Path) -> None:
    (tmp_path / ".work.x1y2.tmp.json").write_text("")
    (tmp_path / "work.json").write_text("")
    assert claim(tmp_path, WORK, RECORD) is None
    assert claim(tmp_path, WORK, RECORD) is not None


def test_an_empty_record_beside_results_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "work.json").write_text("")
    (tmp_path / "result").write_text("of some settings")
    with pytest.raises(UserError, match="work.json is empty, as a crash may leave it. Choose another folder"):
        claim(tmp_path, WORK, RECORD)


def test_differences_are_named_by_their_places() -> None:
    found, wanted = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2]}, "e": None}
    assert list(differences(found, wanted)) == ["a.c", "d"]


def test_the_commit_is_unknown_outside_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: str) -> str:
        raise FileNotFoundError("git")

    monkeypatch.setattr(run_folders, "_git", missing)
    assert run_folders.commit() is None
