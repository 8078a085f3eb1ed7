"""Batches are halved where memory runs out, and sized by what a trial takes; what they give stays the same."""

import gc
import math
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from soft2hard.compute import memory, metering
from soft2hard.compute.memory import Halving, PeakMemory, affordable, is_out_of_memory
from soft2hard.errors import UserError

CPU = torch.device("cpu")
MB = 2**20


def squares(most: int, tried: list[int]):
    """Work that has memory for `most` items at a time."""

    def work(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        metering.count(len(items), 10 * len(items))
        if len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return [item**2 for item in items]

    return work


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_all_items_are_worked_on_once_and_in_order_whatever_the_memory(most: int) -> None:
    batches = [list(range(13)), [13], list(range(14, 30))]
    found = list(Halving("Buy more.").run(batches, squares(most, [])))
    assert [item for part, _ in found for item in part] == list(range(30))
    assert [result for _, results in found for result in results] == [item**2 for item in range(30)]
    assert all(len(part) <= most for part, _ in found)


def test_what_did_not_fit_once_is_not_tried_again() -> None:
    tried: list[int] = []
    list(Halving("Buy more.").run([list(range(16))] * 3, squares(4, tried)))
    assert tried == [16, 8, *[4] * 12]


def test_one_item_that_does_not_fit_is_one_line_with_the_remedy() -> None:
    with pytest.raises(UserError, match="not enough memory for a batch of one. Buy more."):
        list(Halving("Buy more.").run([[1, 2, 3]], squares(0, [])))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(items: Sequence[int]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Halving("").run([[1, 2]], broken))


def test_only_what_succeeds_is_counted() -> None:
    with metering.listening() as heard, metering.on_behalf_of(3):
        list(Halving("").run([list(range(16))], squares(2, [])))
    assert heard.own == {3: metering.Count(16, 160)} and heard.shared == metering.Count()


def test_tensors_of_a_failed_attempt_are_gone_before_the_next() -> None:
    held: list[weakref.ref] = []

    def greedy(items: Sequence[int]) -> int:
        gc.collect()
        assert all(ref() is None for ref in held)
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        if len(items) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return len(tensor)

    assert [n for _, n in Halving("").run([[1, 2, 3, 4]], greedy)] == [1000] * 4
    assert len(held) == 6  # four, two, and one four times


def test_lack_of_memory_is_known_by_the_errors_that_pytorch_and_python_raise() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_peak_memory_is_what_is_alive_at_a_time() -> None:
    with PeakMemory() as held:
        first = torch.zeros(1000)  # 4,000 bytes
        view = first.view(10, 100)
        second = view + 1
        del second
        third = torch.zeros(500)
    assert (held.peak, held.alive) == (8000, 6000)
    assert len(third) == 500


def test_peak_memory_sees_what_the_backward_pass_keeps() -> None:
    weight = torch.randn(32, 32, requires_grad=True)
    size, peaks = weight.nbytes, []
    for depth in (2, 6):
        with PeakMemory() as held:
            hidden = weight
            for _ in range(depth):
                hidden = torch.sin(hidden)  # keeps its input
            hidden.sum().backward()
        peaks.append(held.peak)
        weight.grad = None
    assert peaks[1] - peaks[0] == 4 * size


@pytest.mark.parametrize(("unit", "at_most", "expected"), [(1, 1000, 78), (1, 50, 50), (8, 1000, 72)])
def test_the_batch_found_fills_four_fifths_of_the_free_memory(
    unit: int, at_most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two MB that every batch takes, and one for each item: 80 MB hold 78 items."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100 * MB)

    def run(n: int) -> None:
        fixed = torch.zeros(2 * MB, dtype=torch.uint8)
        torch.zeros(n * MB, dtype=torch.uint8).add_(len(fixed) % 2)

    assert affordable(run, CPU, at_most=at_most, unit=unit) == expected


def test_where_the_trial_itself_does_not_fit_the_batch_is_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(n: int) -> None:
        if n > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert affordable(run, CPU, at_most=100, unit=4) == 4
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert affordable(lambda n: torch.zeros(n), CPU, at_most=100) == 1


def test_a_limit_of_the_control_group_counts(tmp_path: Path) -> None:
    assert memory._left_of_group(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert memory._left_of_group(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._left_of_group(tmp_path) == 700
