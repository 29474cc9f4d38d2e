"""Reading a YAML file that a person wrote, and saying what is wrong with it without quoting it.

A configuration file may hold secrets, and PyYAML's own messages repeat parts of what they refuse.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

_LARGEST_FILE = 4 * 1024 * 1024

MOST_NODES = 200_000
"""Values of a file, each as often as aliases repeat it; some hundred bytes of aliases can mean billions."""

_DEEPEST = 200

# libyaml reads the schemas of a facility in a fifth of the time, which every run would spend.
_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_FIXED_WORDS: dict[type[yaml.YAMLError], str] = {
    yaml.composer.ComposerError: "an alias (*name) has no anchor (&name)",
    yaml.constructor.ConstructorError: "a tag (!name) or a key is not understood",
    yaml.scanner.ScannerError: "a character is where it cannot be (quote texts that begin with @`%&*!|>)",
    yaml.parser.ParserError: "something is missing or too much here",
    yaml.reader.ReaderError: "it holds characters that YAML does not allow",
}


class UnreadableError(ValueError):
    """A file that is not YAML; the text says why, and where, but not what stands there."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML (or JSON) file.

    Raises
    ------
    UnreadableError
        It cannot be read, is larger than any such file, or is not YAML.
    """
    return parse_yaml(read_text(path))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises
    ------
    UnreadableError
        It cannot be read, is larger than any file that a person wrote, or is not UTF-8.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UnreadableError(f"it is larger than {_LARGEST_FILE // 1024} KiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UnreadableError("it is not UTF-8 text") from None


def parse_yaml(text: str) -> Any:
    """The content of a YAML (or JSON) text.

    Raises
    ------
    UnreadableError
        It is not YAML.
    """
    try:
        content = _parse(text)
        _depth(content, 0)
    except UnreadableError:
        raise
    except yaml.YAMLError as error:
        raise UnreadableError(f"it is not YAML: {_words(error)}") from None
    except RecursionError:
        raise UnreadableError(
            "it is YAML that is nested too deeply, or an anchor in it holds itself"
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError):
        raise UnreadableError("it is not YAML: a date, number or tagged value is malformed") from None
    return content


def lines_of(text: str) -> dict[str, int]:
    """The number of the line on which each key of a YAML text is, by its dotted path; keys in lists as well.

    Empty where the text is not YAML that somebody wrote by hand.
    """
    try:
        node = yaml.compose(text, _SAFE_LOADER)
        found: dict[str, int] = {}
        _add_lines(node, "", found, 0)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found


def repeated_keys(text: str) -> dict[str, int]:
    """The keys of a YAML text that are written more than once, by dotted paths, with the line of the last.

    YAML forbids that, and its readers silently take the last one. Empty as for :func:`lines_of`.
    """
    try:
        found: dict[str, int] = {}
        _add_repeated(yaml.compose(text, _SAFE_LOADER), "", found, 0)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found


def _add_repeated(node: yaml.Node | None, place: str, found: dict[str, int], depth: int) -> None:
    if depth > _DEEPEST:
        raise RecursionError
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        inner = f"{place}.{key.value}" if place else str(key.value)
        if inner in seen:
            found[inner] = key.start_mark.line + 1
        seen.add(inner)
        _add_repeated(value, inner, found, depth + 1)


def _add_lines(node: yaml.Node | None, place: str, found: dict[str, int], depth: int) -> None:
    if depth > _DEEPEST or len(found) > MOST_NODES:
        raise RecursionError
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{place}.{key.value}" if place else str(key.value)
            found[inner] = key.start_mark.line + 1
            _add_lines(value, inner, found, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            inner = f"{place}.{number}"
            found[inner] = value.start_mark.line + 1
            _add_lines(value, inner, found, depth + 1)


def _parse(text: str) -> Any:
    # JSON first: what it allows and PyYAML does not are tabs and pairs of escaped surrogates.
    try:
        return json.loads(text)
    except ValueError:
        pass
    loader = _SAFE_LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        # Before anything is made of them: a merge (<<: *name) multiplies while it is made.
        if _nodes(node, {}, 0) > MOST_NODES:
            raise UnreadableError("its aliases (*name) repeat more values than a configuration has")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _nodes(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for; ``known`` are those of nodes that were counted, by their ids."""
    if depth > _DEEPEST:
        raise RecursionError
    if id(node) not in known:
        children = node.value if isinstance(node.value, list) else ()
        known[id(node)] = 1 + sum(
            _nodes(part, known, depth + 1)
            for child in children
            for part in (child if isinstance(child, tuple) else (child,))
        )
    return known[id(node)]


def _words(error: yaml.YAMLError) -> str:
    words = _FIXED_WORDS.get(type(error), "it cannot be parsed")
    mark = getattr(error, "problem_mark", None)
    return f"{words}, line {mark.line + 1}, column {mark.column + 1}" if mark else words


def _depth(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise RecursionError
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _depth(child, depth + 1)
