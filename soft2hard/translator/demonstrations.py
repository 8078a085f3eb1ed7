"""The instruction with demonstrations whose outputs the soft prompt wrote: no labels, and what small models follow."""

from collections.abc import Sequence
from random import Random

from soft2hard.data_gen.tasks import Example
from soft2hard.translator.verification import Candidate, Probes, Verifier

_SETS, _ROUNDS, _KEPT = 12, 2, 3  # sets of demonstrations tried at first and in each round; sets that are varied
_LEFT_OVER = 2  # inputs at least on which sets are compared


def with_demonstrations(text: str, k: int, verifier: Verifier, probes: Probes, seed: int) -> tuple[str | None, Probes]:
    """The text with `k` pairs of input and output under the soft prompt, the best of those tried.

    Half of the inputs that chose the text lend pairs, and the others choose among sets of them by the divergence:
    random sets first, then the best with one pair exchanged. Fewer pairs where there are not as many; None where not
    one set fits the subject's context, or no output is anything to show. Beside it, the inputs that lent none.
    """
    n = len(probes.inputs)
    lent = [i for i in range(max(n // 2, min(k, n - _LEFT_OVER))) if probes.outputs[i]]
    rest = verifier.some(probes, [i for i in range(n) if i not in lent])
    k, rng = min(k, len(lent)), Random(f"{seed}/{text}")
    if k == 0:
        return None, probes
    tried: dict[str, tuple[int, ...]] = {}
    found: list[Candidate] = []
    sets = [tuple(rng.sample(lent, k)) for _ in range(_SETS)]
    for _ in range(1 + _ROUNDS):
        texts = {_text(text, chosen, probes, verifier): chosen for chosen in sets}
        found += verifier.verify([t for t in texts if t not in tried], rest)
        tried |= texts
        if not found:
            return None, rest
        found.sort(key=lambda candidate: candidate.divergence)
        sets = [_exchanged(tried[found[i % min(_KEPT, len(found))].text], lent, rng) for i in range(_SETS)]
    return found[0].text, rest


def _text(instruction: str, chosen: Sequence[int], probes: Probes, verifier: Verifier) -> str:
    shown = [Example(probes.inputs[i], probes.outputs[i]) for i in chosen]
    return verifier.subject.template.few_shot_text(shown, instruction)


def _exchanged(chosen: tuple[int, ...], lent: Sequence[int], rng: Random) -> tuple[int, ...]:
    """One pair exchanged for another, or two places where there is no other."""
    place, others = rng.randrange(len(chosen)), [i for i in lent if i not in chosen]
    if others:
        return (*chosen[:place], rng.choice(others), *chosen[place + 1 :])
    return tuple(rng.sample(chosen, len(chosen)))
