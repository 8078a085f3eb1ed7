"""Paraphrases of instructions, written by a teacher and kept if they pass checks; copies of task files with them."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from soft2hard.api.requests import Request
from soft2hard.data_gen.tables import csv_comments, read_table, read_text
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.teacher import Rejected, Teacher, json_lines, normal_form, usable_texts, variation
from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_folder, write_text

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
    outputs = Counter(example.output for example in task.examples)
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


def paraphrase_request(teacher: Teacher, original: Original, n: int, round_: int) -> Request:
    """The request for `n` paraphrases of an instruction, for the `round_`-th time, from 0."""
    fewest, most = original.lengths()
    words = ", ".join(f'"{word}"' for word in original.words)
    text = PROMPT.format(
        n=n,
        fewest=fewest,
        most=most,
        words=f"\n- Each has these words exactly as they stand here: {words}." if words else "",
        variation=variation(round_, "write less obvious ones"),
        instruction=original.instruction,
    )
    return teacher.request(text, _TOKENS_OF_WORD * n * most)


def paraphrase(teacher: Teacher, wanted: Sequence[Original], n: int) -> tuple[dict[str, list[str]], list[Rejected]]:
    """Up to `n` paraphrases of each instruction, by instruction, and what was rejected.

    All are asked for at once, and those with too few again. Raises UserError where an answer is missing or the limit
    on cost is reached; what was answered is kept.
    """
    texts: dict[str, list[str]] = {original.instruction: [] for original in wanted}
    rejected: list[Rejected] = []

    def take(original: Original, answer: str) -> None:
        kept = texts[original.instruction]
        fault = partial(fault_of, original=original, others=kept)
        for text in usable_texts(answer, "paraphrase", fault, rejected, original.instruction):
            if len(kept) < n:
                kept.append(text)

    teacher.fill(
        wanted,
        request=lambda original, round_: paraphrase_request(teacher, original, n, round_),
        take=take,
        is_short=lambda original: len(texts[original.instruction]) < n,
    )
    return texts, rejected


def _has(text: str, word: str) -> bool:
    """True if a text has a word, or several, exactly as they stand there."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def save(
    output: Path,
    paraphrases: Mapping[str, Sequence[str]],
    rejected: Iterable[Rejected],
    files: Sequence[tuple[Path, str]] | None,
) -> None:
    """Write paraphrases by instruction, and what was rejected; whole or not at all.

    `files`, task files with their instructions (empty for none): a folder of copies that have them in their headers.
    None: a file with them alone. Raises UserError where it cannot be written.
    """
    unused = json_lines(map(asdict, rejected))
    if files is None:
        rows = [{"instruction": text, "paraphrases": some} for text, some in paraphrases.items() if some]
        write_text(output.with_name(f"{output.stem}.rejected.txt"), unused)
        write_text(output, json_lines(rows))
        return
    with atomic_folder(output) as temporary:
        for path, text in files:
            (temporary / path.name).write_text(with_header(path, text, paraphrases.get(text, ())), encoding="utf-8")
        # Not .jsonl, since that would be one of the folder's task files.
        (temporary / "rejected.txt").write_text(unused, encoding="utf-8")


def check_names(paths: Sequence[Path]) -> None:
    """Raise UserError where two files of different folders share a name, since their copies are to share one folder."""
    seen: dict[str, Path] = {}
    for path in paths:
        if seen.setdefault(path.name, path) != path:
            raise UserError(f"{seen[path.name]} and {path} share a name.", "Rename one of the files.")


def with_header(path: Path, instruction: str, paraphrases: Sequence[str]) -> str:
    """The text of a task file with these in its header; paraphrases that it has are replaced, where there are new ones.

    Remarks, other fields of the header and all rows stay as they are.
    """
    header = dict(read_table(path, ("input", "output")).header)
    given = header.pop("paraphrases", "").split("\n")
    texts = list(paraphrases) or [text for text in given if text]
    if instruction:
        header = {"instruction": instruction} | header
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        lines = [line for line in text.split("\n") if line.strip()]
        has_header = not {"input", "output"} & set(json.loads(lines[0]))
        fields = {**header, **({"paraphrases": texts} if texts else {})}
        first = [json.dumps(fields, ensure_ascii=False)] if fields else []
        return "\n".join([*first, *lines[has_header:]]) + "\n"
    lines = text.splitlines(keepends=True)
    comments, taken = csv_comments(lines), {"instruction", "paraphrases"}
    remarks = [f"{line}\n" for line in comments if line.lstrip("#").partition(":")[0].strip() not in taken]
    first = [f"# instruction: {header['instruction']}\n"] if "instruction" in header else []
    first += [f"# paraphrases: {text}\n" for text in texts]
    return "".join([*first, *remarks, *lines[len(comments) :]])
