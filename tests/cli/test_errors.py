"""UserError: one line with a remedy."""

import pickle

from soft2hard.errors import UserError


def test_text_is_problem_then_remedy():
    assert str(UserError("No file a.npy.", "Check the path.")) == "No file a.npy. Check the path."


def test_text_is_one_line_even_when_quoting_a_message_of_several_lines():
    error = UserError("Cannot read a.pt:\n\n  bad magic\tnumber.", "Save it\nagain.")
    assert str(error) == "Cannot read a.pt: bad magic number. Save it again."


def test_exit_code_is_two():
    assert UserError("a", "b").exit_code == 2


def test_survives_pickling_as_worker_processes_send_it():
    copy = pickle.loads(pickle.dumps(UserError("Wrong shape.", "Transpose it.")))
    assert (copy.problem, copy.remedy, str(copy)) == ("Wrong shape.", "Transpose it.", "Wrong shape. Transpose it.")
