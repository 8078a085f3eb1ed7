"""Paraphrases of instructions, written by a teacher and kept only if they pass checks."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soft2hard.api.requests import Request
from soft2hard.data_gen.normal_form import normal_form
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.teacher import NO_JSON, Questions, Rejected, Teacher, read_list

ROUNDS = 3
"""Times that an instruction is asked for, at most."""
SHORTEST, LONGEST = 0.5, 2.0
"""Words of a paraphrase, as multiples of the instruction's."""
_LEEWAY = 4
"""Words that a paraphrase of a short instruction may have more or fewer, whatever the multiples say."""
_FREQUENT = 0.1
"""Share of a task's examples from which an output counts as a label word, where the task names no labels."""
_TOKENS_OF_WORD = 4
"""Room in an answer for a word of the instruction in each paraphrase, with its JSON."""

PROMPT = """Write {n} different paraphrases of the instruction below.

- Each asks for exactly the same, no more and no less, and stands on one line.
- Each has between {fewest} and {most} words.{words}
- They differ from the instruction and from each other in wording and form.{variation}

Reply with JSON alone: {{"paraphrases": ["...", "..."]}}

Instruction: {instruction}"""


@dataclass(frozen=True)
class Original:
    """An instruction to be paraphrased."""

    instruction: str
    words: tuple[str, ...] = ()
    """Label words that it names: a paraphrase must name them too."""

    def lengths(self) -> tuple[int, int]:
        """Words of a paraphrase, at least and at most."""
        n = len(self.instruction.split())
        return max(1, min(round(SHORTEST * n), n - _LEEWAY)), max(round(LONGEST * n), n + _LEEWAY)


@dataclass(frozen=True)
class Paraphrased:
    """What came of it."""

    texts: dict[str, tuple[str, ...]]
    """Paraphrases by instruction; none where none passed."""
    rejected: tuple[Rejected, ...]


def originals(tasks: Iterable[Task]) -> list[Original]:
    """The distinct instructions of tasks; of several tasks with one instruction the label words of all count."""
    words: dict[str, dict[str, None]] = {}
    for task in tasks:
        if task.instruction:
            named = [word for word in label_words(task) if _has(task.instruction, word)]
            words.setdefault(task.instruction, {}).update(dict.fromkeys(named))
    return [Original(instruction, tuple(named)) for instruction, named in words.items()]


def label_words(task: Task) -> list[str]:
    """What a task's outputs may be: its labels, or without any the outputs of at least a tenth of its examples."""
    if task.labels is not None:
        return list(task.labels)
    outputs = Counter(example.output for example in (*task.train, *task.validation, *task.test))
    return [output for output, count in outputs.items() if count >= max(2, _FREQUENT * outputs.total())]


def fault_of(paraphrase: str, original: Original, others: Iterable[str] = ()) -> str | None:
    """Why a paraphrase is not used, or None; `others` are those that are used already."""
    fewest, most = original.lengths()
    if len(paraphrase.splitlines()) != 1:
        return "empty or several lines"
    if not fewest <= len(paraphrase.split()) <= most:
        return "too short or too long"
    if any(not _has(paraphrase, word) for word in original.words):
        return "a label word is lost"
    if normal_form(paraphrase) == normal_form(original.instruction):
        return "a copy of the instruction"
    if normal_form(paraphrase) in map(normal_form, others):
        return "a copy of another paraphrase"
    return None


def paraphrase_request(questions: Questions, original: Original, n: int, round_: int) -> Request:
    """The request for `n` paraphrases of an instruction, for the `round_`-th time, from 0."""
    fewest, most = original.lengths()
    words = ", ".join(f'"{word}"' for word in original.words)
    text = PROMPT.format(
        n=n,
        fewest=fewest,
        most=most,
        words=f"\n- Each has these words exactly as they stand here: {words}." if words else "",
        variation=f"\n- This is list number {round_ + 1}: write less obvious ones." if round_ else "",
        instruction=original.instruction,
    )
    return questions.request(text, _TOKENS_OF_WORD * n * most)


def paraphrase(teacher: Teacher, wanted: Sequence[Original], n: int) -> Paraphrased:
    """Up to `n` paraphrases of each instruction: all are asked for at once, and what comes short again.

    Raises UserError where an answer cannot be had or the limit on cost is reached; what was answered is kept.
    """
    texts: dict[str, list[str]] = {original.instruction: [] for original in wanted}
    rejected: list[Rejected] = []
    for round_ in range(ROUNDS):
        short = [original for original in wanted if len(texts[original.instruction]) < n]
        if not short:
            break
        answers = teacher.ask([paraphrase_request(teacher.questions, original, n, round_) for original in short])
        for original, answer in zip(short, answers, strict=True):
            _sort_out(answer, original, texts[original.instruction], rejected, n)
    return Paraphrased({instruction: tuple(kept) for instruction, kept in texts.items()}, tuple(rejected))


def _sort_out(answer: str, original: Original, kept: list[str], rejected: list[Rejected], n: int) -> None:
    """Add what is usable to `kept`, up to `n`, and the rest to `rejected`."""
    items = read_list(answer, "paraphrases")
    if items is None:
        rejected.append(Rejected("answer", NO_JSON, answer, original.instruction))
    for item in items or ():
        text = item.strip() if isinstance(item, str) else str(item)
        reason = fault_of(text, original, kept) if isinstance(item, str) else "not a text"
        if reason is not None:
            rejected.append(Rejected("paraphrase", reason, text, original.instruction))
        elif len(kept) < n:
            kept.append(text)


def _has(text: str, word: str) -> bool:
    """Whether a text has a word, or several, exactly as they stand there."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
