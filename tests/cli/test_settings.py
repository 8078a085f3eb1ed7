"""Settings: one declaration for Python, files and flags, and one line for whatever is wrong with a value."""

import pickle
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from soft2hard.data_gen.settings import CorpusSettings, Tuning
from soft2hard.errors import UserError
from soft2hard.lm.settings import Loading
from soft2hard.settings import checked, chosen, some_of
from soft2hard.translator.settings import Design, TranslatorTraining


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": 0}, "steps is 0, not a number above 0"),
        ({"steps": 2.5}, "steps is 2.5, not a whole number"),
        ({"steps": True}, "steps is true, not a whole number"),
        ({"steps": "8"}, 'steps is "8", not a whole number'),
        ({"lr": "much"}, 'lr is "much", not a finite number'),
        ({"lr": float("inf")}, "lr is Infinity, not a finite number"),
        ({"init": 3}, "init is 3, not a text"),
        ({"stepz": 8}, "there is no setting 'stepz'; the nearest is 'steps'"),
        ({"steps": 0, "slots": -1}, "steps is 0, not a number above 0; slots is -1, not a number from 0"),
        (3, "is 3, not a mapping of settings"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line_with_the_field(values: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(Tuning, values, "recipe.yaml")
    assert str(caught.value) == f"recipe.yaml: {said}. Change these settings."


def test_python_and_files_have_the_same_checks() -> None:
    for make in (lambda: Tuning(0), lambda: Tuning(n_tokens=0), lambda: replace(Tuning(), n_tokens=0)):
        with pytest.raises(UserError, match="n_tokens is 0, not a number above 0"):
            make()
    with pytest.raises(UserError, match="There is no dtype 'int8'; there are 'auto', 'saved'"):
        Loading(dtype="int8")
    with pytest.raises(UserError, match="There is no setting 'stepz'"):
        Tuning(stepz=3)


def test_lists_may_be_written_with_commas_and_numbers_with_exponents() -> None:
    for written in ("8,16", ["8", "16"], [8, 16], (8, 16)):
        assert checked(Design, {"hidden_layers": written}, "here").hidden_layers == (8, 16)
    assert checked(Tuning, {"lr": "1e-3"}, "here").lr == 0.001  # YAML takes it for a text


def test_some_of_the_fields_are_checked_as_all_are_and_only_they_are_kept() -> None:
    assert checked(some_of(Tuning), {"steps": 3, "lr": 1}, "here") == {"steps": 3, "lr": 1.0}
    with pytest.raises(UserError, match="here: steps is 0"):
        checked(some_of(Tuning), {"steps": 0}, "here")
    with pytest.raises(UserError, match="split is missing; n_tasks is missing"):
        checked(CorpusSettings, {}, "here")


def test_settings_are_values() -> None:
    changed = replace(TranslatorTraining(), epochs=2.0)
    assert pickle.loads(pickle.dumps(changed)) == changed != TranslatorTraining()
    assert chosen(changed) == {"epochs": 2.0} and asdict(changed)["batch_size"] == 128
    with pytest.raises(AttributeError):
        changed.epochs = 3.0


def test_settings_do_not_wait_for_pytorch() -> None:
    rooms = ("lm", "data_gen", "translator", "eval.analysis", "eval.transfer")
    code = "".join(f"import soft2hard.{room}.settings\n" for room in rooms) + "import soft2hard.workers.cluster\n"
    code += "import sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
