"""A training batch cut into runs of instructions of like length: less padding, the same loss and gradients."""

from itertools import combinations
from random import Random

import pytest
import torch

from soft2hard.translator import data as runs
from soft2hard.translator.data import IGNORE, n_runs, runs_of_like_length
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design
from tests import tiny_training


def places(lengths: list[int], cut: list[list[int]]) -> int:
    return sum(len(run) * max(lengths[i] for i in run) for run in cut)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_no_other_cut_of_the_sorted_items_pads_less(n: int) -> None:
    for seed in range(20):
        rng = Random(seed)
        lengths = [rng.randint(1, 12) for _ in range(8)]
        order = sorted(range(8), key=lambda i: lengths[i])
        every = (
            [order[a:b] for a, b in zip((0, *inner), (*inner, 8), strict=True)]
            for inner in combinations(range(1, 8), n - 1)
        )
        found = runs_of_like_length(lengths, n)
        assert len(found) == n
        assert sorted(i for run in found for i in run) == list(range(8))
        assert places(lengths, found) == min(places(lengths, cut) for cut in every)


def test_how_many_runs_there_are_depends_on_the_number_of_pairs_alone() -> None:
    for size in (1, 7, 8, 31, 128, 1000):
        assert len(runs_of_like_length([3] * size, n_runs(size))) == n_runs(size) <= max(1, size // 8)


@pytest.mark.parametrize("architecture", ["encoder-decoder", "causal-lora"])
def test_loss_and_gradients_are_those_of_the_whole_batch(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, rng = tiny_training.llama_subject(), Random(0)
    torch.manual_seed(0)
    made = Translator.for_subject(subject, Design(architecture, dropout=0.0, instruction_tokens=15))
    lengths = torch.tensor([rng.randint(1, 15) for _ in range(32)])
    labels = torch.randint(3, 14, (32, 15)).masked_fill(torch.arange(15)[None] >= lengths[:, None], IGNORE)
    mask = torch.arange(4)[None] < torch.randint(2, 5, (32, 1))
    batch = {"soft_prompts": torch.randn(32, 4, 16), "attention_mask": mask, "labels": labels}
    shapes: list[torch.Size] = []
    logits = made.model.logits
    made.model.logits = lambda memory, labels: shapes.append(labels.shape) or logits(memory, labels)

    def backward() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        made.model.train().zero_grad()
        loss = made.model(**batch).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in made.model.named_parameters() if p.grad is not None}

    loss, gradients = backward()
    assert len(shapes) == 4
    assert sum(shape.numel() for shape in shapes) < 0.7 * labels.numel()
    monkeypatch.setattr(runs, "_MOST_RUNS", 1)
    whole, expected = backward()
    assert shapes[4:] == [labels.shape]
    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)
