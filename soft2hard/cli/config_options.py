"""Configuration dataclasses as command-line options.

Names, types, defaults and help come from the source of the dataclass (the text under each field is its help),
read without importing it: that would load PyTorch for every --help. So a setting is defined in one place.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "str | None": str | None}


@dataclass(frozen=True)
class Field:
    """A field of a configuration dataclass."""

    name: str
    type: Any
    default: object
    help: str


def config_fields(module: str, name: str, helps: Mapping[str, str] = MappingProxyType({})) -> list[Field]:
    """The fields of the dataclass `name` of a module, which is not imported; `helps` takes precedence.

    Raises TypeError for a field of another type than options can have, without default, or without help.
    """
    spec = find_spec(module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return [
        _field(node, below, helps)
        for node, below in zip(body, [*body[1:], None], strict=True)
        if isinstance(node, ast.AnnAssign)
    ]


def _field(node: ast.AnnAssign, below: ast.stmt | None, helps: Mapping[str, str]) -> Field:
    name, type_name = ast.unparse(node.target), ast.unparse(node.annotation)
    text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
    text = helps.get(name, text)
    if type_name not in _TYPES or node.value is None or not isinstance(text, str):
        raise TypeError(f"{name}: {type_name} cannot be an option: it needs a plain type, a default and a docstring")
    return Field(name, _TYPES[type_name], ast.literal_eval(node.value), inspect.cleandoc(text).replace("`", "'"))


def with_options(
    parameter: str,
    module: str,
    name: str,
    *,
    prefix: str = "",
    panel: str,
    defaults: Mapping[str, object] = MappingProxyType({}),
    helps: Mapping[str, str] = MappingProxyType({}),
    without: Collection[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass; their values reach it in `parameter`, as a dictionary.

    Args:
        parameter: Keyword parameter of the command that takes the values by field name.
        module, name: Where the dataclass stands.
        prefix: Begins the options' names, where two dataclasses share field names.
        panel: Heading over the options in the help.
        defaults: Values other than the dataclass's own, for this command.
        helps: Help that says more than the text under the field.
        without: Fields that mean nothing to this command, and stay as they are by default.
    """
    fields = [field for field in config_fields(module, name, helps) if field.name not in without]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_config(**values: Any) -> None:
            config = {field.name: values.pop(prefix + field.name) for field in fields}
            command(**values, **{parameter: config})

        signature = inspect.signature(command, eval_str=True)
        kept = [p for p in signature.parameters.values() if p.name != parameter]
        options = [_option(field, prefix, panel, defaults.get(field.name, field.default)) for field in fields]
        with_config.__signature__ = signature.replace(parameters=[*kept, *options])
        with_config.__annotations__ = {p.name: p.annotation for p in (*kept, *options)}
        del with_config.__wrapped__  # typer would follow it to the signature without the options
        return with_config

    return decorate


def _option(field: Field, prefix: str, panel: str, default: object) -> inspect.Parameter:
    flag = f"--{prefix}{field.name}".replace("_", "-")
    names = f"{flag}/--no-{flag[2:]}" if field.type is bool else flag
    option = typer.Option(names, help=field.help, rich_help_panel=panel, show_default=default is not None)
    annotation = Annotated[field.type, option]
    return inspect.Parameter(
        prefix + field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
