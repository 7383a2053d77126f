"""Our own engines: `{backend: cpu, mode: q8, kv: f16}`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from aprtui.engine.backends.registry import BACKENDS, named_backend, require_available
from aprtui.engine.capturing import CaptureRequest, require_possible, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.kv_types import require_fitting
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.sweep.engines.engine import CaptureJob, EngineKind, token_text
from aprtui.sweep.fields import PlanField


@dataclass(frozen=True, slots=True)
class BackendEngine:
    """A backend by its name: `auto` would be another engine on each machine. `inject` are faults, to see them found."""

    backend: str
    mode: Mode = Mode.EXACT
    kv: KvType = KvType.F32
    decode_from: int | None = None
    inject: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        return int(named_backend(self.backend).is_device)

    def identity(self) -> str:
        backend = named_backend(self.backend)
        require_available(backend)
        return "" if backend.identity is None else str(backend.identity())

    def require_usable(self, model: Model, where: str) -> None:
        try:
            require_fitting(self.kv, model.config.graph)
            for text in self.inject:
                parse_fault(text, model)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error

    def weight_bytes(self, model: Model) -> int:
        return model.size

    def capture(self, job: CaptureJob, directory: Path) -> None:
        model = job.model
        request = CaptureRequest(
            job.tokens, job.text, frozenset(model.graph.nodes), Logits.ALL, self.decode_from
        )  # fmt: skip
        require_possible(request, model.config.context)
        faults = tuple(parse_fault(text, model) for text in self.inject)
        opened = open_engine(
            model, backend=self.backend, mode=self.mode, kv=self.kv, threads=job.threads, context=len(job.tokens),
            intervention=FaultInjector(model, self.mode, faults) if faults else None,
        )  # fmt: skip
        with closing(opened) as engine:
            write_capture(engine, model, request, directory, faults=faults)

    def by_hand(self, model: Path, tokens: tuple[int, ...], directory: str) -> str:
        words = ["--backend", self.backend, "--mode", self.mode, "--kv", self.kv, "--logits", "all"]
        words += [] if self.decode_from is None else ["--decode-from", str(self.decode_from)]
        words += [word for text in self.inject for word in ("--inject", text)]
        return shlex.join(
            ["aprtui", "trace", str(model), "--tokens", token_text(tokens), *words, "--save-tensor-dir", directory]
        )


def _read(fields: Mapping[str, PlanField]) -> BackendEngine:
    return BackendEngine(
        fields["backend"].choice(*(backend.name for backend in BACKENDS)),
        Mode(fields["mode"].choice(*Mode)) if "mode" in fields else Mode.EXACT,
        KvType(fields["kv"].choice(*KvType)) if "kv" in fields else KvType.F32,
        fields["decode_from"].whole() if "decode_from" in fields else None,
        tuple(each.text() for each in fields["inject"].items("a list of faults")) if "inject" in fields else (),
    )


OWN = EngineKind("backend", ("backend", "mode", "kv", "decode_from", "inject"), _read)
