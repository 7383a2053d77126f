"""The results of a sweep as rows: one a verdict, with what is needed to look at it or to make its captures again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from aprtui.compare.verdict import Verdict
from aprtui.errors import ExitCode, UnreadableError
from aprtui.trace.aprt import write_atomically
from aprtui.trace.json_value import json_number, json_value

RESULTS, ROLLUP = "results", "rollup"
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A cell of the matrix: what one pair of engines came to on one prompt of one model.

    `prompt` counts from 0 in the order of the plan, `text` is its text (empty where ids were given). `capture_a` and
    `capture_b` are the captures, relative to the folder of the sweep, empty where they were not kept; `again_a` and
    `again_b` the commands that make them again. Side A of a replay has none of these.
    """

    model: str
    model_path: str
    prompt: int
    text: str
    token_count: int
    pair: str
    a: str
    b: str
    judge: str
    key: str
    verdict: str
    headline: str
    layer: int | None
    stage: str | None
    metric: str | None
    error: float | None
    floor: float | None
    bound: float | None
    compared: int
    expected: int
    seconds: float
    problem: str
    capture_a: str
    capture_b: str
    again_a: str
    again_b: str


@dataclass(frozen=True, slots=True)
class RollupRow:
    """One stage of one layer over all prompts: how many were judged; at how many it is the first wrong stage; how many
    FAIL, which without a replay may be inherited from an earlier stage; and the largest error over its noise floor
    (None where no floor was measured), with the number of the prompt that has it."""

    model: str
    pair: str
    engine: str
    layer: int | None
    stage: str
    judged: int
    first: int
    failed: int
    unknown: int
    failed_share: float
    largest_over_floor: float | None
    largest_prompt: int | None


def exit_code(rows: Iterable[ResultRow]) -> ExitCode:
    """The worst verdict: any FAIL, else any UNKNOWN."""
    verdicts = {row.verdict for row in rows}
    if Verdict.FAIL in verdicts:
        return ExitCode.DIVERGENCE
    return ExitCode.PASS if verdicts == {Verdict.PASS} else ExitCode.UNKNOWN


def write_rows(place: Path, name: str, kind: type[Row], rows: Sequence[Row]) -> None:
    """Write rows as JSON lines and as Parquet into the folder `place`, each file whole. Raises `EngineError`."""
    records = [asdict(row) for row in rows]  # type: ignore[call-overload]  # rows are dataclasses
    lines = (json.dumps(json_value({"record": name, **record}), allow_nan=False) for record in records)
    write_atomically(place / f"{name}.jsonl", "".join(f"{line}\n" for line in lines).encode())
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(field.name, _arrow_type(str(field.type))) for field in fields(kind)])  # type: ignore[arg-type]  # as above
    table = pa.Table.from_pylist(records, schema=schema)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    write_atomically(place / f"{name}.parquet", memoryview(sink.getvalue()))


def _arrow_type(annotation: str) -> str:
    return {"str": "string", "int": "int64", "float": "float64"}[annotation.removesuffix(" | None")]


def read_rows(path: Path, name: str, kind: type[Row]) -> Iterator[Row]:
    """The rows of a table that `write_rows` wrote in the folder `path`. Raises `UnreadableError`."""
    file = path / f"{name}.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{file}: cannot be read: expected a folder that aprtui sweep wrote") from error
    for number, line in enumerate(lines, 1):
        try:
            record: Mapping[str, Any] = json.loads(line)
            yield kind(**{field.name: json_number(record[field.name]) for field in fields(kind)})  # type: ignore[arg-type]
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableError(f"{file}:{number}: no row of {name}: run the sweep again") from error


def is_sweep(path: Path) -> bool:
    """Whether a folder holds the results of a sweep."""
    return (path / f"{RESULTS}.jsonl").is_file() and (path / "verdicts").is_dir()
