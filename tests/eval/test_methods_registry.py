"""Methods by name: their options are read without them, and each does what its options say."""

import subprocess
import sys

import pytest

from soft2hard.eval.methods.base import Method
from soft2hard.eval.methods.registry import METHODS, method_of, options_of

READ_ALL = """
import sys
from soft2hard.eval.methods.registry import METHODS, options_of
print(len({options_of(name)().source for name in METHODS}))
print([name for name in ("torch", "transformers", "soft2hard.eval.methods.pez") if name in sys.modules])
"""


def test_all_options_are_read_without_pytorch_and_without_any_method():
    done = subprocess.run([sys.executable, "-c", READ_ALL], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [str(len(METHODS)), "[]"]


@pytest.mark.parametrize("name", METHODS)
def test_a_name_builds_the_method_with_its_options(name: str):
    method = method_of(name)()
    assert isinstance(method, Method) and isinstance(method, options_of(name))
    assert method.name == name
