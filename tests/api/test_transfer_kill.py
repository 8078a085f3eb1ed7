"""A transfer that is killed loses no stored answer and pays for none twice but what was in flight."""

import re

import pytest

from benchmarks.transfer_kill import main


def test_kill_9_loses_no_answer_and_pays_twice_at_most_for_what_was_in_flight(capsys: pytest.CaptureFixture):
    kills, concurrency = 2, 8
    main(requests=150, kills=kills, concurrency=concurrency, fault_rate=0.2, latency=0.02, seed=0)
    said = capsys.readouterr().out
    figures = {name: int(n) for name, n in re.findall(r"(kills|last exit|answers lost|paid twice|faulted) (\d+)", said)}
    assert figures["kills"] == kills and figures["last exit"] == 0
    assert figures["faulted"] > 10
    assert figures["answers lost"] == 0
    assert figures["paid twice"] <= kills * concurrency
