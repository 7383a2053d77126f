"""Harnesses of what this program writes: stage files, manifests, archives, recordings, sessions, evidence."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from aprtui.engine.sessions.session_file import SessionFile, session_summary
from aprtui.trace.agent_trace import is_agent_trace, read_agent_trace
from aprtui.trace.aprt import read_aprt, trailing_bytes, write_aprt
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.manifest import FILE_NAME
from aprtui.trace.stats import accumulate
from aprtui.trace.writer import CaptureWriter
from tests.engine.sessions.recorded_session import write_session
from tests.fuzz.harness import Harness, Target, replace_file
from tests.recordings.made import attention_recording, replayed
from tests.trace.test_capture import feed, planned

_STAGES = ("embedding", "attn_norm", "attn_softmax", "lm_head")


def write_small_capture(folder: Path) -> Path:
    """A capture of a few stages."""
    whole = planned()
    files = {name: info for name, info in whole.files.items() if info.stage in _STAGES}
    writer = CaptureWriter(folder, replace(whole, files=files))
    feed(writer, [5])
    writer.finish(replace(whole, files=files))
    return folder


def _aprt(folder: Path) -> Target:
    path = folder / "layer-0" / "attn_norm.bin"
    write_aprt(path, 0, np.arange(6, dtype=np.float32))

    def run(data: bytes) -> None:
        replace_file(path, data)
        trailing_bytes(path)
        for copied in (False, True):
            file = read_aprt(path, copied)
            file.crc32()
            accumulate(file.values.reshape(1, -1))

    return Target(run, (path.read_bytes(), path.read_bytes() + b"x"))


def read_all(path: Path) -> None:
    """Open a capture and read all that it says that it holds."""
    capture = Capture.open(path, copied=True)
    for node in capture.files:
        capture.values(node)
    assert capture.complete in (True, False, None)
    repr((capture.tokens, capture.pieces, capture.model, capture.promised))


def _manifest(folder: Path) -> Target:
    write_small_capture(folder / "c")
    path = folder / "c" / FILE_NAME
    sample = path.read_bytes()

    def run(data: bytes) -> None:
        replace_file(path, data)
        read_all(folder / "c")

    return Target(run, (sample,), _FIELDS)


_FIELDS = (
    b'"complete": false', b'"layers": 0', b'"tokens": [', b'"shape": [0]', b'"stage": "attn_norm"', b'"layer": null',
    b"layer-0/../x.bin", b'"pieces": null', b'"crc32": 0', b'"windows": [1]', b'"stats": {}',
)  # fmt: skip


def _provenance(folder: Path) -> Target:
    write_small_capture(folder / "c")
    (folder / "c" / FILE_NAME).unlink()
    path = folder / "c" / PROVENANCE
    sample = b"# a capture\ntokens: [1, 2, 3]\ntoken_count: 3\nmodel: m\ncomplete: true\n"
    words = (b"tokens: ", b"token_count: ", b"complete: false", b"[", b"]", b",")
    return Target(lambda data: (replace_file(path, data), Capture.open(folder / "c")), (sample,), words)


def _archived(folder: Path, suffix: str) -> Target:
    """Archives of a capture; each is another file, so that nothing is remembered of the one before."""
    write_small_capture(folder / "c")
    shutil.rmtree(folder / "c" / "layer-0")
    number = 0

    def run(data: bytes) -> None:
        nonlocal number
        (folder / f"{number}{suffix}").unlink(missing_ok=True)
        number += 1
        path = folder / f"{number}{suffix}"
        path.write_bytes(data)
        read_all(path)

    made = (_zip(folder / "c", kind) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return Target(run, (_tar(folder / "c"),) if suffix == ".tar" else tuple(made), (b"PK\x01\x02", b"../", b"ustar"))


def _zip(folder: Path, kind: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", kind) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return data.getvalue()


def _tar(folder: Path) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(folder, "c")
    return data.getvalue()


def _recording(folder: Path) -> Target:
    """The graph of a recording, and each op of it computed again."""
    attention_recording(folder / "r")
    path = folder / "r" / "graph.json"
    sample = json.dumps(json.loads(path.read_bytes())).encode()
    words = (b'"MUL_MAT"', b'"SOFT_MAX"', b'"shape": [', b'"strides": [', b'"blob": null', b'"f16"', b'"q8_0"')
    return Target(lambda data: (replace_file(path, data), replayed(folder / "r")), (sample,), words)


def _session(folder: Path) -> Target:
    path = folder / "s.jsonl"
    sample = write_session(path, pieces=("a", "b")).read_bytes()

    def run(data: bytes) -> None:
        replace_file(path, data)
        session_summary(path)
        with SessionFile(path) as file:
            list(file.rest())

    return Target(run, (sample,))


def _agent_trace(folder: Path) -> Target:
    path = folder / "t.jsonl"
    turn = '{"v":1,"kind":"assistant_turn","turn":0,"blocks":[{"type":"text","text":"a"}],"stop_reason":"end_turn"}'
    sample = (
        '{"v":1,"kind":"session_start","session_id":"a","ts":"2026-11-27T10:00:00Z","actor":"apr-code","model":"m"}\n'
        f'{{"v":1,"kind":"user_prompt","turn":0,"text":"hi"}}\n{turn}\n'
        '{"v":1,"kind":"tool_result","tool_use_id":"x","ok":true,"content":"c","side_effects":{"a":[1]}}\n'
        '{"v":1,"kind":"session_end","turns":1,"stop_reason":"end_turn","elapsed_ms":12}\n'
    )

    def run(data: bytes) -> None:
        replace_file(path, data)
        is_agent_trace(path)
        repr(read_agent_trace(path))

    return Target(run, (sample.encode(),), (b'"hook_event"', b'"skill_invocation"', b'"tool_use"', b'"thinking"'))


CAPTURES = (
    Harness("aprt", _aprt), Harness("manifest", _manifest), Harness("provenance", _provenance),
    Harness("zip", lambda folder: _archived(folder, ".zip")), Harness("tar", lambda folder: _archived(folder, ".tar")),
    Harness("recording", _recording), Harness("session", _session), Harness("agent-trace", _agent_trace),
)  # fmt: skip
