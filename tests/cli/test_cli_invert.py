"""soft2hard invert as a user meets it: images in, hard prompts as JSON out."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny_clip, tiny_models
from tests.command_line import run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP and a policy LM for it, on disk."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), tiny_clip.tokenizer()
    tiny_clip.saved(folder / "clip")
    tiny_models.model("opt", vocab_size=len(tokenizer)).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "red.png", tmp_path / "wide.jpg"]
    Image.new("RGB", (20, 30), (200, 10, 10)).save(paths[0])
    Image.new("L", (90, 40), 120).save(paths[1])
    return paths


def found(*arguments: object) -> dict:
    done = run("invert", *arguments)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_each_image_gets_its_prompt_by_either_method_and_the_similarity_is_that_of_the_model(models, images):
    options = ["--option", "steps=5", "--option", "n_tokens=2"]
    pin = ["--method", "pin", *options, "--option", f"policy={models / 'policy'}", "--option", "hidden=8"]
    for more in (options, pin):
        document = found(*images, "--clip", models / "clip", *more)
        assert document["options"]["steps"] == 5
        clip = tiny_clip.clip()
        for one, path in zip(document["inversions"], images, strict=True):
            expected = (clip.texts([one["prompt"]]) @ clip.images([path]).T).item()
            assert one["images"] == [str(path)] and one["similarity"] == pytest.approx(expected, abs=1e-4)


def test_one_prompt_for_all_images_and_a_file_of_output(models, images, tmp_path):
    written = tmp_path / "found.json"
    options = ["--option", "steps=3", "--option", "n_tokens=2"]
    done = run("invert", *images, "--clip", models / "clip", "--together", *options, "-o", written)
    assert (done.exit_code, done.stdout) == (0, "")
    (one,) = json.loads(written.read_text())["inversions"]
    assert one["images"] == [str(path) for path in images] and one["prompt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--option", "stepz=3"], "there is no setting 'stepz'; the nearest is 'steps'"),
        (["--option", "steps=0"], "steps is 0, not a number above 0"),
        (["--option", "steps"], "'steps' is not NAME=VALUE"),
        (["--option", "n_tokens=40"], "A prompt of 40 tokens is asked for"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(models, images, arguments, said):
    done = run("invert", images[0], "--clip", models / "clip", *arguments)
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert said in done.stderr


def test_a_text_model_is_no_clip(models, images):
    done = run("invert", images[0], "--clip", models / "policy")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "has no text projection" in done.stderr
