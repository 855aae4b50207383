"""The table of config keys for people, made from the schema, so that text and schema cannot disagree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from seqprior.errors import BadInput


def keys(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """(dotted key, its schema, whether it must be given) of every key, each section before what it holds."""
    for name, entry in schema["properties"].items():
        yield prefix + name, entry, name in schema.get("required", ())
        if "properties" in entry:
            yield from keys(entry, f"{prefix}{name}.")


def type_words(entry: Mapping[str, Any]) -> str:
    """What a key may hold, in words: `text or null`, `list of text`, `whole number, at least 1`, one of some values."""
    if "const" in entry:
        return value_text(entry["const"])
    if "enum" in entry:
        return ", ".join(map(value_text, entry["enum"]))
    if "oneOf" in entry:
        return " or ".join(map(type_words, entry["oneOf"]))
    names = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "mapping"}
    types = entry["type"] if isinstance(entry["type"], list) else [entry["type"]]
    words = " or ".join(names.get(kind, kind) for kind in types)
    if "array" in types:
        words = words.replace("array", f"list of {type_words(entry['items'])}")
        words += ", not empty" if entry.get("minItems") else ", empty" if entry.get("maxItems") == 0 else ""
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    return ", ".join([words, *(f"{text} {entry[limit]}" for limit, text in limits.items() if limit in entry)])


def value_text(value: object) -> str:
    """A value as YAML's flow style writes it, as code; JSON is that too."""
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def key_table(schema: Mapping[str, Any]) -> str:
    """A Markdown table of key, type, default and description."""
    rows = ["| key | type | default | description |", "|---|---|---|---|"]
    for key, entry, required in keys(schema):
        section = "properties" in entry
        kind = "section" if section else type_words(entry)
        default = "required" if required else "" if section else value_text(entry["default"])
        rows.append(f"| `{key}` | {kind} | {default} | {entry['description']} |")
    return "\n".join(rows) + "\n"


def with_table(text: str, table: str, what: str) -> str:
    """`text` with `table` between the marks of `what`, for example `<!-- keys -->` and `<!-- /keys -->`.

    Raises:
        BadInput: the text has not both marks, each once and in this order.
    """
    begin, end = f"<!-- {what} -->", f"<!-- /{what} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise BadInput(f"found no place for the table of {what}; expected one line {begin} and below it one line {end}")
    return f"{text.partition(begin)[0]}{begin}\n{table}{end}{text.partition(end)[2]}"
