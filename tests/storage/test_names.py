"""Names of models: 'embedded' is the package's own folder of a role, and everything else is left to folders and hub."""

from pathlib import Path

import pytest

from soft2hard.errors import UserError
from soft2hard.storage import names


@pytest.mark.parametrize("role", ["subject", "translator", "api_model"])
def test_embedded_is_the_folder_of_that_role_in_the_package(role: str) -> None:
    assert names.folder_of("embedded", role) == Path(names.located("embedded", role)) == names.embedded_path(role)
    assert (names.embedded_path(role) / ("soft2hard.json" if role == "translator" else "config.json")).is_file()


def test_other_names_stay_as_they_are(tmp_path: Path) -> None:
    assert names.folder_of(tmp_path, "subject") == tmp_path
    assert names.folder_of("./nowhere", "translator") == Path("nowhere")
    assert names.located("organisation/name", "subject") == "organisation/name"


def test_the_embedded_subject_is_known_by_its_name_and_by_its_folder(tmp_path: Path) -> None:
    assert names.is_embedded_subject("embedded") and names.is_embedded_subject(str(names.embedded_path("subject")))
    assert not names.is_embedded_subject(str(names.embedded_path("api_model")))
    assert not names.is_embedded_subject(str(tmp_path))


def test_a_checkout_without_checkpoints_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "EMBEDDED", tmp_path)
    with pytest.raises(UserError, match="'translator' is missing.*train_embedded"):
        names.folder_of("embedded", "translator")
