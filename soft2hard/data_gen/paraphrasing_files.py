"""Task files with paraphrases: copies in which all but the header stays as it was."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from soft2hard.data_gen.tables import read_table, read_text
from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_folder


def write_task_files(
    folder: Path, files: Sequence[tuple[Path, str]], paraphrases: Mapping[str, Sequence[str]], others: Mapping[str, str]
) -> None:
    """Write copies of task files with the paraphrases of their instructions, and `others` (texts by name), as a folder.

    `files` are paths with the instruction of each task, empty for none. The folder appears whole or not at all.
    Raises UserError where two files share a name, or the folder cannot be written.
    """
    check_names([path for path, _ in files])
    with atomic_folder(folder) as temporary:
        for path, instruction in files:
            text = with_header(path, instruction, paraphrases.get(instruction, ()))
            (temporary / path.name).write_text(text, encoding="utf-8")
        for name, text in others.items():
            (temporary / name).write_text(text, encoding="utf-8")


def check_names(paths: Sequence[Path]) -> None:
    """Raise UserError where two files of different folders share a name, since their copies are to share one folder."""
    seen: dict[str, Path] = {}
    for path in paths:
        if path.name in seen:
            raise UserError(f"{seen[path.name]} and {path} share a name.", "Rename one of the files.")
        seen[path.name] = path


def with_header(path: Path, instruction: str, paraphrases: Sequence[str]) -> str:
    """The text of a task file with these in its header; paraphrases that it has are replaced, where there are new ones.

    Raises UserError where the file cannot be read as a table of examples.
    """
    header = dict(read_table(path, ("input", "output")).header)
    given = header.pop("paraphrases", "").split("\n")
    texts = list(paraphrases) or [text for text in given if text]
    if instruction:
        header = {"instruction": instruction} | header
    write = _jsonl if path.suffix.lower() == ".jsonl" else _csv
    return write(read_text(path), header, texts)


def _jsonl(text: str, header: Mapping[str, str], paraphrases: list[str]) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    if not {"input", "output"} & set(json.loads(lines[0])):
        lines.pop(0)
    fields: dict[str, str | list[str]] = dict(header)
    if paraphrases:
        fields["paraphrases"] = paraphrases
    first = [json.dumps(fields, ensure_ascii=False)] if fields else []
    return "\n".join([*first, *lines]) + "\n"


def _csv(text: str, header: Mapping[str, str], paraphrases: list[str]) -> str:
    lines = text.splitlines(keepends=True)
    n_comments = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    taken = {"instruction", "paraphrases"}
    remarks = [line for line in lines[:n_comments] if line.lstrip("#").partition(":")[0].strip() not in taken]
    first = [f"# instruction: {header['instruction']}\n"] if "instruction" in header else []
    first += [f"# paraphrases: {text}\n" for text in paraphrases]
    return "".join([*first, *remarks, *lines[n_comments:]])
