"""Atomic writing: complete or not at all."""

import errno
import os
import stat

import pytest

from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_folder, atomic_write


def test_file_appears_only_when_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_temporary_file_is_beside_the_target_and_has_its_suffix(tmp_path):
    with atomic_write(tmp_path / "a.npy") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npy"


def test_failed_block_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_interrupt_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_missing_parent_folders_are_made(tmp_path):
    with atomic_write(tmp_path / "new" / "deep" / "a.txt") as temporary:
        temporary.write_text("x")
    with atomic_folder(tmp_path / "other" / "deep" / "folder"):
        pass
    assert (tmp_path / "new" / "deep" / "a.txt").exists()
    assert (tmp_path / "other" / "deep" / "folder").is_dir()


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
def test_full_disk_is_a_user_error_and_leaves_nothing(tmp_path, writer):
    with pytest.raises(UserError, match="target.*No space left on device.*Free some space"):
        with writer(tmp_path / "target"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
def test_a_parent_that_is_a_file_is_a_user_error(tmp_path, writer):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"), writer(tmp_path / "file" / "a"):
        pass


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
def test_an_unwritable_folder_is_a_user_error(tmp_path, writer, monkeypatch):
    # Permissions do not bind root, who may be running the tests, so the refusal is simulated.
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match="Permission denied"), writer(tmp_path / "a"):
        pass


def test_file_is_not_written_over_a_folder_nor_folder_over_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="a folder of that name exists"), atomic_write(tmp_path / "folder"):
        pass
    with pytest.raises(UserError, match="a file of that name exists"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "kept"


def test_file_and_folder_follow_the_umask(tmp_path):
    mask = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "file"):
            pass
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


def test_folder_appears_only_when_the_block_ends(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["folder"]


def test_folder_overwrites_the_old_one_as_a_whole(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "stale").write_text("old")
    with atomic_folder(target, overwrite=True) as temporary:
        (temporary / "fresh").write_text("new")
    assert os.listdir(target) == ["fresh"]
    assert os.listdir(tmp_path) == ["folder"]


def test_failed_block_keeps_the_old_folder(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(target, overwrite=True) as temporary:
        (temporary / "half").write_text("half")
        raise ZeroDivisionError
    assert os.listdir(target) == ["old"]
    assert os.listdir(tmp_path) == ["folder"]


def test_folder_that_holds_files_is_not_replaced_unasked(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="the folder is not empty"), atomic_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_empty_folder_is_filled(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
    assert os.listdir(target) == ["a"]
