"""The changelog of a contract, `metadata.changelog`: a mapping from versions, or a list, as people write it."""

from __future__ import annotations

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from aprtui.contracts.changes.yaml_edit import Edit, Source, entry, has, is_block, quoted

KEY = "changelog"


def prepended(source: Source, metadata: MappingNode, version: str, date: str, change: str) -> Edit:
    """An entry for `version` before all others, in the form of those; a mapping from versions where there is none.

    Raises `ContractError` for a changelog that has no line an entry.
    """
    if not has(metadata, KEY):
        dated = quoted(f"{date}: {change}")
        return source.added_after(metadata, "version", [f"{KEY}:", f"  {quoted(version)}:", f"    - {dated}"])
    key, value = entry(metadata, KEY)
    if not is_block(value):
        raise source.refuse(key, f"metadata.{KEY} has no line an entry")
    assert isinstance(value, MappingNode | SequenceNode)
    lines = (
        _in_mapping(value, version, date, change)
        if isinstance(value, MappingNode)
        else _in_list(value, version, date, change)
    )
    return source.line_after(key.end_mark.index, " " * value.start_mark.column, lines)


def _in_mapping(changelog: MappingNode, version: str, date: str, change: str) -> list[str]:
    key, value = changelog.value[0]
    name = version if isinstance(key, ScalarNode) and key.style is None and version.count(".") > 1 else quoted(version)
    text = quoted(f"{date}: {change}")
    return [f"{name}: {text}"] if isinstance(value, ScalarNode) else [f"{name}:", f"  - {text}"]


def _in_list(changelog: SequenceNode, version: str, date: str, change: str) -> list[str]:
    first: Node = changelog.value[0]
    if not isinstance(first, MappingNode):
        return [f"- {quoted(f'{version} - {date} - {change}')}"]
    known = {"version": quoted(version), "date": quoted(date)}
    keys = [key.value for key, _ in first.value if isinstance(key, ScalarNode)]
    told = next((key for key in keys if key not in known), "changes")
    is_list = has(first, told) and isinstance(entry(first, told)[1], SequenceNode)
    text = quoted(change)
    fields = [f"{key}: {known[key]}" for key in known if key in keys]
    fields.append(f"{told}: [{text}]" if is_list else f"{told}: {text}")
    return [f"{'- ' if index == 0 else '  '}{field}" for index, field in enumerate(fields)]
