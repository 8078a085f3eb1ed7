"""Files that hold no soft prompt: each gives one line that names the file and a remedy, and none is run."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from soft2hard.errors import UserError
from soft2hard.prompts.files import SUFFIXES
from soft2hard.prompts.soft_prompt import SoftPrompt


def refusal(path) -> str:
    """The message of the UserError that loading `path` must raise."""
    with pytest.raises(UserError) as caught:
        SoftPrompt.from_pretrained(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert caught.value.problem and caught.value.remedy
    return message


def whole_file(suffix: str, path) -> bytes:
    """A good soft prompt file's bytes, large enough that half of it lacks values."""
    tensor = torch.ones(40, 50)
    if suffix == ".safetensors":
        save_file({"a": tensor}, path)
    elif suffix == ".npy":
        np.save(path, tensor.numpy())
    elif suffix == ".npz":
        np.savez(path, tensor.numpy())
    else:
        torch.save(tensor, path)
    return path.read_bytes()


def test_missing_path(tmp_path):
    assert "No such file or folder" in refusal(tmp_path / "absent.npy")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_of_no_bytes(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    assert "is empty (0 bytes)" in refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_file_cut_short(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    content = whole_file(suffix, path)
    path.write_bytes(content[: int(len(content) * kept)])
    message = refusal(path)
    assert "cut short" in message or "damaged" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"hello, I am a text\n", b"\x80", bytes(64), b"\xff" * 64])
def test_file_of_something_else(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_bytes_never_escape_as_another_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    good = whole_file(suffix, path)
    generator = np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(good)
        # The first bytes hold the structure, where damage has the most ways to go wrong.
        for place in generator.integers(0, min(len(bad), 600), size=4):
            bad[place] = generator.integers(0, 256)
        path.write_bytes(bytes(bad))
        try:
            SoftPrompt.from_pretrained(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_unknown_suffix_lists_the_known_ones(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"x")
    message = refusal(path)
    assert "unknown suffix .ckpt" in message
    assert all(suffix in message for suffix in SUFFIXES)


def test_file_without_suffix(tmp_path):
    path = tmp_path / "prompt"
    path.write_bytes(b"x")
    assert "unknown suffix." in refusal(path)


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    path = tmp_path / "a.npy"
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((2, 3)))

    # Permissions do not bind root, who may be running the tests, so the refusal is simulated.
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("numpy.load", refuse)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(4, np.float32), "shape (4,), not (n_tokens, d_model)"),
        (np.ones((2, 3, 4), np.float32), "shape (2, 3, 4), not (n_tokens, d_model)"),
        (np.float32(1), "shape ()"),
        (np.ones((0, 4), np.float32), "is empty: its shape is (0, 4)"),
        (np.array([[1, np.nan]], np.float32), "NaN or infinite values"),
        (np.array([[1, np.inf]], np.float32), "NaN or infinite values"),
        (np.array([[1e300, 1]], np.float64), "NaN or infinite values"),
        (np.ones((2, 3), np.int32), "int64 values, not floating-point"),
        (np.ones((2, 3), bool), "bool values"),
        (np.ones((2, 3), complex), "complex128 values"),
        (np.array([["a", "b"]]), "holds no tensor"),
    ],
)
def test_array_that_is_no_finite_matrix(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    assert message in refusal(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (1, 1, 2, 3), (2, 1, 3)])
def test_axes_of_one_entry_are_left_aside(tmp_path, shape):
    values = np.arange(6, dtype=np.float32)
    np.save(tmp_path / "a.npy", values.reshape(shape))
    assert SoftPrompt.from_pretrained(tmp_path / "a.npy").embeddings.tolist() == values.reshape(2, 3).tolist()


def test_of_a_matrix_and_a_tensor_that_could_be_one_the_matrix_is_taken(tmp_path):
    torch.save({"prompt": torch.ones(2, 3), "conv": torch.ones(5, 1, 4)}, tmp_path / "a.pt")
    assert SoftPrompt.from_pretrained(tmp_path / "a.pt").embeddings.shape == (2, 3)


def test_integer_tensors_are_told_from_embeddings(tmp_path):
    torch.save(torch.tensor([[1, 2, 3]]), tmp_path / "a.pt")
    assert "not token ids" in refusal(tmp_path / "a.pt")


def test_several_matrices_are_named_with_their_shapes(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"left": torch.ones(2, 3), "right": torch.ones(4, 3), "bias": torch.ones(3)}, path)
    message = refusal(path)
    assert "2 matrices" in message
    assert "left float32 (2, 3)" in message and "right float32 (4, 3)" in message
    assert "bias" not in message
    assert "under the name prompt_embeddings" in message


def test_a_long_list_of_matrices_is_cut(tmp_path):
    torch.save({f"layer{i}": torch.ones(2, 2) for i in range(9)}, tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert "layer4" in message and "layer5" not in message and "and 4 more" in message


def test_tensors_none_of_which_is_a_matrix_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", ids=np.ones((2, 3), int), bias=np.ones(3))
    message = refusal(tmp_path / "a.npz")
    assert "no floating-point matrix" in message
    assert "ids int64 (2, 3)" in message and "bias float32 (3,)" in message


@pytest.mark.parametrize("content", [{}, [torch.ones(2, 3)], "text", {"a": 1}, torch.ones(2, 3).to_sparse()])
def test_torch_file_without_a_named_dense_tensor(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert "holds no tensor" in refusal(tmp_path / "a.pt")


def test_the_named_soft_prompt_is_checked_even_beside_a_good_matrix(tmp_path):
    torch.save({"prompt_embeddings": torch.ones(3), "other": torch.ones(2, 3)}, tmp_path / "a.pt")
    assert "shape (3,)" in refusal(tmp_path / "a.pt")


# Our own metadata


def own_file(path, **changes: str) -> None:
    """A file of ours with some metadata replaced."""
    good = {"format": "soft2hard soft prompt", "schema_version": "1", "subject": "null", "fingerprint": "null"}
    path.write_bytes(save({"prompt_embeddings": torch.ones(2, 3)}, good | {"provenance": "{}"} | changes))


def test_unchanged_metadata_is_accepted(tmp_path):
    own_file(tmp_path / "a.safetensors")
    assert SoftPrompt.from_pretrained(tmp_path / "a.safetensors").n_tokens == 2


def test_newer_schema_version_says_to_upgrade(tmp_path):
    own_file(tmp_path / "a.safetensors", schema_version="3")
    message = refusal(tmp_path / "a.safetensors")
    assert "schema version 3" in message and "Upgrade soft2hard" in message


@pytest.mark.parametrize(
    "changes",
    [{"subject": "{"}, {"subject": "3"}, {"provenance": "[]"}, {"provenance": '{"a": 1}'}, {"schema_version": "one"}],
)
def test_damaged_metadata(tmp_path, changes):
    own_file(tmp_path / "a.safetensors", **changes)
    assert "metadata" in refusal(tmp_path / "a.safetensors")


# Files that would run code


class Payload:
    """Pickles as a call that leaves a mark: unpickling it with the plain unpickler creates the file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


class BuiltinPayload(Payload):
    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w')",))


def save_torch_zip(path, payload):
    torch.save({"prompt_embeddings": torch.ones(2, 3), "extra": payload}, path)


def save_torch_legacy(path, payload):
    torch.save({"x": torch.ones(2, 3), "extra": payload}, path, _use_new_zipfile_serialization=False)


def save_plain_pickle(path, payload):
    path.write_bytes(pickle.dumps(payload))


def save_object_npz(path, payload):
    np.savez(path, a=np.array([payload], dtype=object))


def save_object_npy(path, payload):
    np.save(path, np.array([payload], dtype=object))


DISGUISES = [
    ("a.pt", save_torch_zip),
    ("a.bin", save_torch_legacy),
    ("a.pth", save_plain_pickle),
    ("a.npy", save_plain_pickle),
    ("b.npy", save_object_npy),
    ("a.npz", save_plain_pickle),
    ("b.npz", save_object_npz),
    ("a.safetensors", save_plain_pickle),
]


@pytest.mark.parametrize("kind", [Payload, BuiltinPayload])
@pytest.mark.parametrize(("name", "disguise"), DISGUISES)
def test_planted_code_is_not_run(tmp_path, name, disguise, kind):
    mark = tmp_path / "mark"
    disguise(tmp_path / name, kind(mark))
    message = refusal(tmp_path / name)
    assert not mark.exists()
    if not name.endswith(".safetensors"):
        assert "could run code when read" in message and "nothing was run" in message


@pytest.mark.parametrize("kind", [Payload, BuiltinPayload])
def test_the_planted_code_is_live(tmp_path, kind):
    """Else the tests above could not fail."""
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(kind(mark)))
    assert mark.exists()


def test_archive_whose_members_are_no_arrays(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"not an array")
    assert "holds no tensor" in refusal(path)
