"""Texts found by the place of their embedding in a CLIP: planted ones come back by PEZ, and PIN comes near."""

from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest
import torch
from transformers import CLIPTextModel

from soft2hard.errors import UserError
from soft2hard.eval.inversion.search import Inversion, invert
from soft2hard.eval.inversion.settings import PezInversion, PinInversion
from soft2hard.eval.methods.options import PinOptions
from soft2hard.lm.clip import Clip
from soft2hard.lm.subject import Subject
from tests import tiny_clip, tiny_models

CLIP = tiny_clip.clip()
LENGTH = 3


def policy() -> Subject:
    """A random OPT that writes the CLIP's syllables."""
    tokenizer = tiny_clip.tokenizer()
    wide = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 64}
    model = tiny_models.model("opt", vocab_size=len(tokenizer), **wide)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers" in name and parameter.dim() > 1:
                parameter.mul_(0.1)  # so that a state is mostly its last token and its position
    return Subject(model, tokenizer, name="tiny-opt")


def planted(n: int) -> list[str]:
    rng = Random(1)
    return [" ".join(rng.choices(tiny_clip.WORDS, k=LENGTH)) for _ in range(n)]


def inverted(texts: list[str], options: PezInversion | PinInversion) -> list[Inversion]:
    """The targets are the texts' own directions."""
    with patch.object(Subject, "from_pretrained", return_value=policy()):
        return invert(CLIP, list(CLIP.texts(texts).split(1)), options)


def n_found(texts: list[str], found: list[Inversion]) -> int:
    """Those that came back as the very same sequence of tokens; another text of equal similarity does not count."""
    for one in found:
        own = (CLIP.texts([one.prompt]) @ one.target.T).item()
        assert own == pytest.approx(one.similarity, abs=1e-5)
    return sum(one.prompt == text for one, text in zip(found, texts, strict=True))


def test_pez_finds_planted_sequences_again():
    texts = planted(10)
    found = inverted(texts, PezInversion(n_tokens=LENGTH, steps=150, restarts=32, eval_every=100))
    assert n_found(texts, found) >= 8
    assert all([point["step"] for point in one.curve] == [0, 100, 150] for one in found)


PIN = {
    "n_tokens": LENGTH, "steps": 40, "batch": 64, "lr": 1e-2, "hidden": 64, "polyak": 0.3, "reward_scale": 2.0,
    "k": 50_272, "eval_every": 40,
}  # fmt: skip


def best_of_random(target: torch.Tensor, n: int, seed: int) -> float:
    """Similarity of the best of `n` prompts of random syllables."""
    rng = Random(seed)
    drawn = CLIP.texts([" ".join(rng.choices(tiny_clip.WORDS, k=LENGTH)) for _ in range(n)])
    return (drawn @ target.T).max().item()


def test_pin_finds_planted_sequences_again_where_as_many_random_prompts_find_few():
    texts = planted(10)
    found = inverted(texts, PinInversion(**PIN))
    assert n_found(texts, found) >= 8
    n = PIN["steps"] * PIN["batch"]
    chance = sum(best_of_random(one.target, n, i) > 1 - 1e-5 for i, one in enumerate(found))
    assert chance <= 4
    assert all({"step", "best", "mean"} == set(point) for one in found for point in one.curve)


def test_what_is_learned_is_the_policy_s_own_and_not_all_done_by_changing_the_best_prompts():
    """Without them the policy's prompts still come to be far better than random ones."""
    texts = planted(4)
    found = inverted(texts, PinInversion(**PIN, mutate=0.0))
    rng = Random(2)
    random = CLIP.texts([" ".join(rng.choices(tiny_clip.WORDS, k=LENGTH)) for _ in range(500)])
    for one in found:
        assert one.curve[-1]["mean"] > (random @ one.target.T).mean().item() + 0.1


def test_targets_of_pin_change_nothing_for_each_other_and_a_shift_of_rewards_counts():
    texts = planted(2)
    short = PIN | {"steps": 3, "batch": 8, "eval_every": 1}
    alone, together = inverted(texts[:1], PinInversion(**short)), inverted(texts, PinInversion(**short))
    assert alone[0].prompt == together[0].prompt
    shifted = inverted(texts[:1], PinInversion(**short, reward_shift=3.0))
    assert [p["mean"] for p in shifted[0].curve] != [p["mean"] for p in alone[0].curve]


def test_prompts_by_tokens_are_read_as_the_model_reads_their_text_and_gradients_reach_their_points():
    texts = planted(4)
    ids = torch.tensor(CLIP.tokenizer(texts, add_special_tokens=False)["input_ids"])
    points = CLIP.embedding[ids].clone().requires_grad_()
    model = CLIP.model
    with torch.no_grad():
        inputs = CLIP.tokenizer(texts, return_tensors="pt", return_token_type_ids=False)
        expected = model.get_text_features(**inputs).pooler_output
    expected = expected / expected.norm(dim=-1, keepdim=True)
    for found in (CLIP.prompts(ids, points), CLIP.texts(texts)):
        torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=0)
    CLIP.prompts(ids, points)[:, 0].sum().backward()
    assert (points.grad.abs().sum(-1) > 0).all()
    longer = [f"{text} ba" for text in texts]
    mixed = CLIP.texts([*texts, *longer])  # of two lengths, so padded
    torch.testing.assert_close(mixed[:4], expected, atol=1e-5, rtol=0)


def test_targets_change_nothing_for_each_other_and_a_target_may_be_several_images():
    texts = planted(3)
    options = PezInversion(n_tokens=2, steps=20, restarts=2)
    pair = CLIP.texts(texts[1:])
    first = invert(CLIP, [CLIP.texts(texts[:1])], options)[0]
    together = invert(CLIP, [CLIP.texts(texts[:1]), pair], options)
    assert (together[0].prompt, together[0].similarity) == (first.prompt, pytest.approx(first.similarity, abs=1e-5))
    cosines = CLIP.texts([together[1].prompt]) @ pair.T
    assert together[1].similarity == pytest.approx(cosines.mean().item(), abs=1e-5)


def test_defaults_are_those_published():
    pez, pin = PezInversion(), PinInversion()
    assert (pez.n_tokens, pez.steps, pez.lr, pez.weight_decay) == (16, 3000, 0.1, 0.1)
    assert (pin.n_tokens, pin.k, pin.reward_scale, pin.lr, pin.hidden) == (8, 20_000, 1.0, 5e-5, 2048)
    assert pin.n_allowed(50_272) == 20_000 and pin.n_allowed(640) == PinOptions(k=20_000).n_allowed(640)


# --- what is refused --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.saved(tmp_path_factory.mktemp("clip"))


def test_a_clip_in_a_folder_is_the_clip_in_memory(folder: Path):
    torch.testing.assert_close(Clip.from_pretrained(str(folder)).texts(planted(3)), CLIP.texts(planted(3)))


def test_a_clip_without_text_projection_is_refused_in_one_line(folder: Path, tmp_path: Path):
    CLIPTextModel(tiny_clip.model().config.text_config).save_pretrained(tmp_path / "text")
    with pytest.raises(UserError, match="'.*text' has no text projection"):
        Clip.from_pretrained(str(tmp_path / "text"))
    model = tiny_clip.model()
    state = {name: tensor for name, tensor in model.state_dict().items() if "text_projection" not in name}
    model.save_pretrained(tmp_path / "half", state_dict=state)
    for part in (tiny_clip.tokenizer(), tiny_clip.processor()):
        part.save_pretrained(tmp_path / "half")
    with pytest.raises(UserError, match="'.*half' has no text projection") as caught:
        Clip.from_pretrained(str(tmp_path / "half"))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_inverted_is_refused(tmp_path: Path):
    target = [CLIP.texts(["ba"])]
    with pytest.raises(UserError, match="A prompt of 11 tokens is asked for; 'tiny-clip' reads 10"):
        invert(CLIP, target, PezInversion(n_tokens=11))
    with patch.object(Subject, "from_pretrained", return_value=tiny_models.subject("llama")):
        with pytest.raises(UserError, match="cannot write .* letters and digits"):
            invert(CLIP, target, PinInversion())
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(UserError, match="note.png is no image"):
        CLIP.images([tmp_path / "note.png"])
    with pytest.raises(UserError, match="There is no image"):
        CLIP.images([tmp_path / "nowhere.png"])
