"""The strict reader of a plan: every value has a type, every error names file and line, no key is ignored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aprtui.errors import UsageError
from aprtui.yaml_file import YamlFile, YamlList, YamlMapping, YamlNode, YamlScalar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlanField:
    """A value of a plan; `where` says in words whose it is. Its methods raise `UsageError` for a value of another type
    than they name."""

    path: Path
    where: str
    node: YamlNode

    def error(self, problem: str) -> UsageError:
        return UsageError(f"{self.path}:{self.node.line}: {self.where}: {problem}")

    def mapping(self, expected: str) -> Iterator[tuple[str, PlanField]]:
        """The entries of a mapping of names that the user chooses, at least one."""
        if not isinstance(self.node, YamlMapping) or not self.node.fields:
            raise self.error(f"expected {expected}")
        return ((name, PlanField(self.path, f"{self.where} {name}", node)) for name, node in self.node.fields.items())

    def fields(self, known: Collection[str], needed: Collection[str] = ()) -> Mapping[str, PlanField]:
        """The entries of a mapping of names that we choose; an unknown one is refused at its own line."""
        if not isinstance(self.node, YamlMapping):
            raise self.error(f"expected the fields {', '.join(known)}")
        for name in self.node.fields:
            if name not in known:
                line = self.node.lines[name]
                raise UsageError(f"{self.path}:{line}: {self.where}: no field {name!r}: there are {', '.join(known)}")
        for name in needed:
            if name not in self.node.fields:
                raise self.error(f"the field {name} is missing")
        return {name: PlanField(self.path, f"{self.where}.{name}", node) for name, node in self.node.fields.items()}

    def items(self, expected: str) -> Sequence[PlanField]:
        """The entries of a list, at least one."""
        if not isinstance(self.node, YamlList) or not self.node.items:
            raise self.error(f"expected {expected}")
        return [PlanField(self.path, f"{self.where}[{number}]", item) for number, item in enumerate(self.node.items)]

    @property
    def is_text(self) -> bool:
        return isinstance(self.node, YamlScalar)

    def text(self) -> str:
        if not isinstance(self.node, YamlScalar) or not self.node.text:
            raise self.error("expected a text")
        return self.node.text

    def whole(self) -> int:
        value = self.node.value if isinstance(self.node, YamlScalar) else None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error("expected a whole number")
        return value

    def number(self) -> float:
        value = self.node.value if isinstance(self.node, YamlScalar) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.error("expected a number above 0")
        return float(value)

    def truth(self) -> bool:
        value = self.node.value if isinstance(self.node, YamlScalar) else None
        if not isinstance(value, bool):
            raise self.error("expected true or false")
        return value

    def choice(self, *names: str) -> str:
        text = self.text()
        if text not in names:
            raise self.error(f"{text!r}: expected {', '.join(names)}")
        return text

    def taken(self, reader: Callable[[str], T]) -> T:
        """What `reader` makes of the text; a `UsageError` of it is told with file and line."""
        try:
            return reader(self.text())
        except UsageError as error:
            raise self.error(str(error)) from error


def root_of(file: YamlFile) -> PlanField:
    """The whole of a file. Raises `UsageError` for an empty one, and for a key that is given twice."""
    for duplicate in file.duplicates:
        raise UsageError(
            f"{file.path}:{duplicate.line}: {duplicate.key!r} is given twice, first in line {duplicate.first}: "
            "give it once"
        )
    return PlanField(file.path, "the plan", file.mapping("a plan: models, prompts, engines, pairs"))
