"""SoftPrompt: what it accepts, the formats it reads, exact round trips, and folders of soft prompts."""

import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from soft2hard.errors import UserError
from soft2hard.prompts.files import find_soft_prompts
from soft2hard.prompts.soft_prompt import SoftPrompt


def matrix(n_tokens: int = 3, d_model: int = 4) -> torch.Tensor:
    return torch.randn(n_tokens, d_model, generator=torch.Generator().manual_seed(0))


def assert_holds(soft_prompt: SoftPrompt, expected: torch.Tensor) -> None:
    assert soft_prompt.embeddings.dtype == torch.float32
    assert torch.equal(soft_prompt.embeddings, expected.float())


# The object


def test_sizes_are_rows_and_columns():
    soft_prompt = SoftPrompt(matrix(3, 4))
    assert (soft_prompt.n_tokens, soft_prompt.d_model) == (3, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32_with_the_same_values(dtype):
    values = matrix().to(torch.float16).to(dtype)
    assert_holds(SoftPrompt(values), values)


def test_vectors_are_a_copy_without_gradient():
    parameter = torch.nn.Parameter(matrix())
    soft_prompt = SoftPrompt(parameter)
    with torch.no_grad():
        parameter.zero_()
    assert not soft_prompt.embeddings.requires_grad
    assert_holds(soft_prompt, matrix())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(0, 4), r"empty: its shape is \(0, 4\)"),
        (torch.zeros(3, 0), r"empty: its shape is \(3, 0\)"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), r"NaN or infinite values \(first in row 1\)"),
        (torch.tensor([[0.0, float("-inf")]]), r"NaN or infinite values \(first in row 0\)"),
        (torch.tensor([[1e300, 0.0]], dtype=torch.float64), "NaN or infinite"),
    ],
)
def test_empty_and_non_finite_matrices_are_refused(bad, message):
    with pytest.raises(UserError, match=message) as caught:
        SoftPrompt(bad)
    assert caught.value.remedy


# Our own format


def test_safetensors_round_trip_is_exact(tmp_path):
    soft_prompt = SoftPrompt(
        torch.tensor([[0.1, -0.0, 1e-45], [3.4e38, 1.0, -1.0]]),
        subject="org/модель",
        fingerprint="ab12",
        provenance={"task": 'quotes " and\nlines', "steps": "300", "": "empty name"},
    )
    soft_prompt.save(tmp_path / "a.safetensors")
    loaded = SoftPrompt.from_pretrained(tmp_path / "a.safetensors")
    assert loaded.embeddings.numpy().tobytes() == soft_prompt.embeddings.numpy().tobytes()
    assert (loaded.subject, loaded.fingerprint) == ("org/модель", "ab12")
    assert loaded.provenance == soft_prompt.provenance


def test_unknown_subject_and_fingerprint_stay_unknown(tmp_path):
    SoftPrompt(matrix()).save(tmp_path / "a.safetensors")
    loaded = SoftPrompt.from_pretrained(tmp_path / "a.safetensors")
    assert (loaded.subject, loaded.fingerprint, dict(loaded.provenance)) == (None, None, {})


def test_saved_file_states_its_format_and_schema_version(tmp_path):
    SoftPrompt(matrix()).save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "soft2hard soft prompt"
        assert file.metadata()["schema_version"] == "2"


def test_saving_under_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"not as a\.pt.*End the name in \.safetensors"):
        SoftPrompt(matrix()).save(tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []


def test_full_disk_while_saving_is_a_user_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        SoftPrompt(matrix()).save(tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


# Formats of others


def write_npy(path, tensor):
    np.save(path, tensor.numpy())


def write_npz(path, tensor):
    np.savez(path, tensor.numpy())


def write_safetensors(path, tensor):
    save_file({"any_name": tensor}, path)


def write_torch(path, tensor):
    torch.save(tensor, path)


WRITERS = {
    "a.npy": write_npy,
    "a.npz": write_npz,
    "a.safetensors": write_safetensors,
    "a.pt": write_torch,
    "a.pth": write_torch,
    "a.BIN": write_torch,
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_saved_matrix(tmp_path, name, dtype):
    values = matrix().to(dtype)
    WRITERS[name](tmp_path / name, values)
    assert_holds(SoftPrompt.from_pretrained(tmp_path / name), values)


@pytest.mark.parametrize("name", WRITERS)
def test_a_leading_axis_of_one_is_dropped(tmp_path, name):
    WRITERS[name](tmp_path / name, matrix()[None])
    assert_holds(SoftPrompt.from_pretrained(tmp_path / name), matrix())


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_bfloat16_is_read(tmp_path, name):
    values = matrix().bfloat16()
    WRITERS[name](tmp_path / name, values)
    assert_holds(SoftPrompt.from_pretrained(tmp_path / name), values)


def test_byte_swapped_and_column_ordered_numpy_arrays_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(matrix().numpy().astype(">f4")))
    assert_holds(SoftPrompt.from_pretrained(str(tmp_path / "a.npy")), matrix())


def test_provenance_tells_the_source_and_keeps_its_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": matrix()}, path, metadata={"author": "someone"})
    assert SoftPrompt.from_pretrained(path).provenance == {
        "source": str(path),
        "source_format": "safetensors",
        "metadata.author": "someone",
    }


def test_the_only_matrix_of_a_state_dict_is_found_among_other_values(tmp_path):
    layer = torch.nn.Embedding(3, 4)
    state = {"step": 7, "note": "x", "scale": torch.tensor(2.0), "prompt": {"encoder": layer.state_dict()}}
    torch.save(state, tmp_path / "a.pt")
    assert_holds(SoftPrompt.from_pretrained(tmp_path / "a.pt"), layer.weight.detach())


def test_a_parameter_with_gradient_is_read(tmp_path):
    torch.save({"prompt": torch.nn.Parameter(matrix())}, tmp_path / "a.pt")
    assert_holds(SoftPrompt.from_pretrained(tmp_path / "a.pt"), matrix())


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("initialised_from_text", [True, False])
def test_layout_with_initial_embeddings_gives_the_tuned_ones(tmp_path, batched, initialised_from_text):
    parameter = torch.nn.Parameter(matrix())
    state = {
        # Saved as it left the module: with a gradient function, and a batch axis or none.
        "prompt_embeddings": parameter.unsqueeze(0) if batched else parameter,
        "initial_tokens": torch.tensor([5, 6, 7]) if initialised_from_text else None,
        "initial_embeddings": torch.ones(3, 4) if initialised_from_text else None,
        "num_tokens": 3,
    }
    torch.save(state, tmp_path / "softprompt.pt")
    assert_holds(SoftPrompt.from_pretrained(tmp_path / "softprompt.pt"), matrix())


# Folders


def test_folders_expand_to_their_soft_prompts_sorted_and_once(tmp_path):
    for name in ("b.npy", "a.safetensors", "notes.txt", ".hidden.pt"):
        (tmp_path / name).write_bytes(b"x")
    for folder in ("deep/task", "adapter/checkpoint-10", ".cache"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "deep/task/softprompt.pt").write_bytes(b"x")
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"x")
    (tmp_path / "adapter/checkpoint-10/optimizer.pt").write_bytes(b"x")
    (tmp_path / ".cache/c.npy").write_bytes(b"x")
    expected = [tmp_path / name for name in ("a.safetensors", "adapter", "b.npy", "deep/task/softprompt.pt")]
    assert find_soft_prompts([tmp_path]) == expected
    assert find_soft_prompts([tmp_path / "b.npy", tmp_path]) == [expected[2], *expected[:2], expected[3]]


def test_an_adapter_folder_stands_for_itself(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert find_soft_prompts([str(tmp_path)]) == [tmp_path]


def test_a_link_that_goes_round_is_not_followed(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"x")
    (tmp_path / "round").symlink_to(tmp_path)
    assert find_soft_prompts([tmp_path]) == [tmp_path / "a.npy"]


def test_a_folder_without_soft_prompts_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"has no soft prompts.*\.safetensors.*Give a folder"):
        find_soft_prompts([tmp_path])


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(UserError, match="No such file or folder.*Check the path"):
        find_soft_prompts([tmp_path / "absent"])
