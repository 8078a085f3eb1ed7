"""Every Python snippet of the README and of the page on the Python API runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = ("README.md", "docs/api.md")
SNIPPETS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S), start=1)
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_the_snippets_of_the_docs_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
