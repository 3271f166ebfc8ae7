"""A YAML file as a mapping, with the lines that its options are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from image_repo.errors import ConfigError, OptionError

DEPTH = 3
"""Names in the longest path of an option."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a file says.

    Attributes:
        content: As a YAML parser gives it.
        lines: In which line the name of each option or section is, from 1.
        faults: Names that are there twice, of which YAML takes the last.
    """

    content: Mapping[str, object]
    lines: Mapping[tuple[str, ...], int]
    faults: tuple[OptionError, ...]

    def line(self, path: tuple[str, ...]) -> int:
        """Return the line of an option, or of the section that has it; 0: unknown."""
        return next((n for i in range(len(path)) if (n := self._at(path, i))), 0)

    def _at(self, path: tuple[str, ...], shorter: int) -> int:
        return self.lines.get(path[: len(path) - shorter], 0)


class _Loader(yaml.SafeLoader):
    """Says of a value that is not of its type what is said of all else: where it is."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # such as ValueError for 2026-13-01
            raise yaml.constructor.ConstructorError(
                problem="a value that is not of its type", problem_mark=node.start_mark
            ) from error


def read(file: Path) -> Written:
    """Return what a file says; an empty one says nothing.

    Raises:
        ConfigError: It can't be read, is not YAML, or no mapping. No text of the file
            is shown.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content, node = yaml.load(text, _Loader), yaml.compose(text, _Loader)  # noqa: S506 - it is safe
    except OSError as error:
        raise ConfigError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" in line {place.line + 1}" if place is not None else ""
        raise ConfigError(f"{str(file)!r} is not YAML{where}") from error
    if content is None:
        return Written({}, {}, ())
    if not isinstance(content, dict):
        raise ConfigError(
            f"{str(file)!r} must hold options: a mapping of names to values"
        )
    lines: dict[tuple[str, ...], int] = {}
    faults = []
    for path, line in _names(node, ()):
        if path in lines:
            text = f"option {'.'.join(path)} is there twice: in line {lines[path]}, too"
            faults.append(OptionError(text, path))
        lines[path] = line
    return Written(content, lines, tuple(faults))


def _names(
    node: yaml.Node | None, where: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the paths and lines of all names; an anchor may hold itself."""
    if not isinstance(node, yaml.MappingNode) or len(where) == DEPTH:
        return
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode):
            path = (*where, name.value)
            yield path, name.start_mark.line + 1
            yield from _names(value, path)
