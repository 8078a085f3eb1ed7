"""Settings of one method that differ in one option alone: what a report can draw a figure against."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from soft2hard.eval.methods.registry import METHODS, options_of
from soft2hard.eval.run_records import MethodRecord

LEAST = 3
"""Values of an option that make a curve."""


@dataclass(frozen=True)
class Ablation:
    """Methods of a run that are alike but for one option."""

    method: str
    """The name that they share."""
    option: str
    labels: tuple[str, ...]
    """In the order of `values`."""
    values: tuple[Any, ...]
    """Of the option, each once: ascending where they are numbers, else in the order of the run."""

    @property
    def is_numeric(self) -> bool:
        """True if the values can stand on an axis."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    @property
    def spans_magnitudes(self) -> bool:
        """True if they are best drawn as logarithms."""
        return self.is_numeric and min(self.values) > 0 and max(self.values) >= 20 * min(self.values)


def ablations(methods: Sequence[MethodRecord], least: int = LEAST) -> list[Ablation]:
    """All options of which the run has so many values or more, all else being the same, in the run's order."""
    found = []
    for name in dict.fromkeys(method.name for method in methods):
        given = {m.label: _defaults(name) | m.options for m in methods if m.name == name}
        for option in dict.fromkeys(key for options in given.values() for key in options):
            found += [one for one in _of_option(name, option, given) if len(one.values) >= least]
    return found


def _defaults(name: str) -> dict[str, Any]:
    """The values that options have where none is given; none for a method that is no longer there."""
    if name not in METHODS:
        return {}
    return {field.name: field.default for field in fields(options_of(name)) if field.default is not MISSING}


def _of_option(name: str, option: str, given: Mapping[str, Mapping[str, Any]]) -> Iterator[Ablation]:
    """The groups of settings that are alike but for this option."""
    groups: dict[str, dict[str, tuple[Any, str]]] = {}
    for label, options in given.items():
        others = repr(sorted((key, _plain(value)) for key, value in options.items() if key != option))
        value = options.get(option)
        groups.setdefault(others, {}).setdefault(repr(_plain(value)), (value, label))
    for group in groups.values():
        pairs = list(group.values())
        one = Ablation(name, option, tuple(label for _, label in pairs), tuple(value for value, _ in pairs))
        if one.is_numeric:
            pairs.sort(key=lambda pair: pair[0])
            one = Ablation(name, option, tuple(label for _, label in pairs), tuple(value for value, _ in pairs))
        yield one


def _plain(value: Any) -> Any:
    """A value as a file holds it: a whole float is an int, a tuple a list."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return list(value) if isinstance(value, tuple) else value
