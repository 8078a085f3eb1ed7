"""What soft prompts do on inputs, as pairs: read by a translator, and demonstrations behind an instruction.

The soft prompt wrote the outputs, so there are no labels in them; and small models follow them.
"""

import sys
from collections.abc import Sequence
from itertools import chain
from random import Random

from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.data import Views, in_sets
from soft2hard.translator.model import Translator
from soft2hard.translator.verification import Candidate, Probes, Verifier

_SETS, _ROUNDS, _KEPT = 12, 2, 3  # sets of demonstrations tried at first and in each round; sets that are varied
_LEFT_OVER = 2  # inputs at least on which sets are compared


def with_demonstrations(text: str, k: int, verifier: Verifier, probes: Probes, seed: int) -> tuple[str | None, Probes]:
    """The text with `k` pairs of input and output under the soft prompt, the best of those tried.

    Half of the inputs that chose the text lend pairs, and the others choose among sets of them by the divergence:
    random sets first, then the best with one pair exchanged. Fewer pairs where there are not as many, as is said on
    standard error; None where not one set fits the subject's context, or no output is anything to show. Beside it, the
    inputs that lent none.
    """
    n = len(probes.inputs)
    lent = [i for i in range(max(n // 2, min(k, n - _LEFT_OVER))) if probes.outputs[i]]
    rest = verifier.some(probes, [i for i in range(n) if i not in lent])
    asked, k, rng = k, min(k, len(lent)), Random(f"{seed}/{text}")
    if k == 0:
        return None, probes
    if k < asked:
        print(
            f"{k} demonstrations instead of {asked}: of the {n} inputs that chose the text, no more are left to lend "
            "one. Give more inputs.",
            file=sys.stderr,
        )
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


def acting(
    translator: Translator,
    subject: Subject,
    soft_prompts: Sequence[SoftPrompt],
    inputs: Sequence[Sequence[str]],
    seed: int,
    max_new_tokens: int | None = None,
) -> list[SoftPrompt]:
    """Soft prompts as a translator is given them: where it also reads what they do, with what they write for some of
    their `inputs`, as many as it was trained to read. No example is needed, and none is shown that the soft prompt does
    otherwise. Inputs are left out that have no room in the subject's context beside an output. Raises UserError where
    there are none for a translator that reads nothing else.
    """
    view = translator.view(subject)
    if view.reads not in ("examples", "both"):
        return list(soft_prompts)
    sets = [[view.chosen(some, seed)] for some in inputs]
    found = _shown(translator, subject, soft_prompts, sets, max_new_tokens)
    return [of_prompt[0] for of_prompt, _ in found]


def views_of(
    translator: Translator,
    subject: Subject,
    soft_prompts: Sequence[SoftPrompt],
    inputs: Sequence[Sequence[str]],
    seed: int,
    max_new_tokens: int | None = None,
) -> list[Views]:
    """All that a translator of examples is given of soft prompts: as `acting`, with several sets of inputs where there
    are enough, and for one of both the vectors alone."""
    view = translator.view(subject)
    sets = [view.sets(some, seed) for some in inputs]
    found = _shown(translator, subject, soft_prompts, sets, max_new_tokens)
    has_alone = translator.reads == "both"
    return [
        Views(tuple(of_prompt), prompt if has_alone and of_prompt[0] is not prompt else None, pairs)
        for prompt, (of_prompt, pairs) in zip(soft_prompts, found, strict=True)
    ]


def _shown(
    translator: Translator,
    subject: Subject,
    soft_prompts: Sequence[SoftPrompt],
    sets: Sequence[Sequence[Sequence[str]]],
    max_new_tokens: int | None,
) -> list[tuple[list[SoftPrompt], tuple[Example, ...]]]:
    """Each soft prompt with what it writes for each of its sets of inputs, all written in shared batches; and these
    pairs of input and output."""
    view, verifier = translator.view(subject), Verifier(subject, max_new_tokens)
    fitting = [
        [input for input in dict.fromkeys(chain.from_iterable(of_prompt)) if verifier.has_room(prompt, input)]
        for prompt, of_prompt in zip(soft_prompts, sets, strict=True)
    ]
    if view.reads == "examples" and not all(fitting):
        raise UserError(
            f"The translator '{translator.name}' reads what soft prompts do, and there are no inputs to show it.",
            "Give some with --examples.",
        )
    written = verifier.written(soft_prompts, fitting)
    pairs = [list(map(Example, some, outputs)) for some, outputs in zip(fitting, written, strict=True)]
    return [
        (view.of_sets(prompt, of_prompt, some), in_sets(some, of_prompt))
        for prompt, of_prompt, some in zip(soft_prompts, sets, pairs, strict=True)
    ]
