"""The points that every other method is read against: soft prompt, gold instruction, no prompt, solved examples."""

from collections.abc import Iterator, Sequence

from soft2hard.data_gen.tasks import Example, demonstrations
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.options import FewShotOptions, GoldOptions, NoneOptions, SoftOptions


class SoftPromptItself(SoftOptions):
    """Measured as any prompt is."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """Each case's own soft prompt."""
        yield from (Outcome(case.soft_prompt) for case in cases)


class GoldInstruction(GoldOptions):
    """The upper reference point of hard prompts."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """Each task's reference instruction."""
        yield from (Outcome(case.task.instruction) for case in cases)


class NoPrompt(NoneOptions):
    """The lower reference point."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """No prompt for any case."""
        yield from (Outcome(None) for _ in cases)


class ShowsExamples:
    """A method whose prompts are solved examples."""

    def check(self, bench: Bench) -> None:
        """Raise UserError for a template without a place for examples."""
        bench.subject.template.check_shows()


class FewShot(ShowsExamples, FewShotOptions):
    """Solved examples as text before the input."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """Demonstrations as one text; the trace says how many there was room for."""
        yield from (self._outcome(case, bench) for case in cases)

    def _outcome(self, case: Case, bench: Bench) -> Outcome:
        task = case.task
        instruction = task.instruction if self.with_instruction else None
        text, n = shown_text(case, bench, demonstrations(task, self.k, bench.seed), instruction)
        failure = None if text else "not one example fits the subject's context"
        return Outcome(text, trace={"k": n} if text else {}, failure=failure)


def shown_text(
    case: Case, bench: Bench, shown: Sequence[Example], instruction: str | None = None
) -> tuple[str | None, int]:
    """As many of these examples, in order, as have room in a prompt, and how many; None where not one has."""
    subject, room = bench.subject, _room(case, bench)
    for n in range(len(shown), 0, -1):
        text = subject.template.few_shot_text(shown[:n], instruction)
        if room is None or len(subject.prompt_embeddings(text)) <= room:
            return text, n
    return None, 0


def _room(case: Case, bench: Bench) -> int | None:
    """Tokens a prompt may have beside the longest of the task's examples; None if there is no limit.

    Training examples stand in for the test examples, which no method sees, with half as much again to be safe.
    """
    subject = bench.subject
    if subject.context_length is None:
        return None
    lengths = [
        subject.encode_input(e.input, "hard", subject.encode_output(e.output)).n_read + 1 for e in case.task.train
    ]
    return subject.context_length - max(lengths) * 3 // 2
