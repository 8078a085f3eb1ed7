"""Every Python snippet of the README and of the docs runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(code, page.name, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S), start=1)
]
NEED_WHAT_IS_NOT_HERE = {"datasets.md", "large-subjects.md", "recipes.md"}
"""Pages whose snippets read from the hub, or from a collection that a user downloads: these are only compiled."""


@pytest.mark.parametrize(("code", "page"), SNIPPETS)
def test_the_snippets_of_the_docs_run(code: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compiled = compile(code, page, "exec")
    if page not in NEED_WHAT_IS_NOT_HERE:
        exec(compiled, {"__name__": "snippet"})
