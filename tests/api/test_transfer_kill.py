"""A transfer that is killed loses no stored answer and pays for none twice but what was in flight."""

import re
import subprocess
import sys

from tests.paths import ROOT


def test_kill_9_loses_no_answer_and_pays_twice_at_most_for_what_was_in_flight():
    kills, concurrency = 2, 8
    options = ["--requests", "150", "--kills", str(kills), "--concurrency", str(concurrency), "--latency", "0.02"]
    benchmark = [sys.executable, str(ROOT / "benchmarks" / "transfer_kill.py"), *options]
    done = subprocess.run(benchmark, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    figures = {
        name: int(n) for name, n in re.findall(r"(kills|last exit|answers lost|paid twice|faulted) (\d+)", done.stdout)
    }
    assert figures["kills"] == kills and figures["last exit"] == 0
    assert figures["faulted"] > 10
    assert figures["answers lost"] == 0
    assert figures["paid twice"] <= kills * concurrency
