"""What tests of several files share for as long as their process lives."""

from collections.abc import Iterator

import pytest
import torch

from tests import cluster_work


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    """Sums of other numbers of threads are rounded otherwise, so no test may leave a change of it to the next."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def without_translator_of_any_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if SmolLM2 could not be fetched, whose translator serves subjects without one: results of tests must not
    depend on it, and loading it takes seconds. Tests of it overrule this."""
    monkeypatch.setattr("soft2hard.translator.fitting.of_any_subject", lambda subject: None)


@pytest.fixture
def without_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if UMAP were not installed: compiling it takes half a minute in every process; its own test does that."""
    from soft2hard.eval.analysis import geometry

    monkeypatch.setattr(geometry, "UMAP_PACKAGE", "umap_is_not_here")


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Address of a Ray cluster of this machine with two cores.

    It outlives all tests of its process: Ray ends a process that was once a client of a cluster that is gone.
    """
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[cluster]'")
    with cluster_work.ray_of_this_machine() as address:
        yield address
