"""The command for a further capture of the run that a capture is of: what would settle what it leaves open."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aprtui.model.digest import file_digest
from aprtui.resources import embedded_model
from aprtui.trace.graph.stage import Node

if TYPE_CHECKING:
    from aprtui.trace.capture import Capture

_UNKNOWN = "the engine that wrote it"
_NEW = "further-capture"


@dataclass(frozen=True, slots=True)
class Run:
    """What made a capture: the `engine` and its `mode`, empty where these are not known; the `model` and the `tokens`
    as they are typed."""

    engine: str = ""
    mode: str = ""
    model: tuple[str, ...] = ("MODEL",)
    tokens: tuple[int, ...] = ()

    def command(self, nodes: Sequence[Node] = (), more: Sequence[str] = ()) -> str:
        """The command that captures `nodes` of the same run, or all of it; engines that hold a whole graph give all."""
        prompt = ["--tokens", ",".join(map(str, self.tokens))] if self.tokens else ["-p", "PROMPT"]
        oracle = {"llama.cpp": "llamacpp", "transformers": "hf"}.get(self.engine)
        if oracle is not None:
            return shlex.join(["aprtui", "oracle", oracle, *self.model, *prompt, "--out", _NEW])
        mode = ["--mode", self.mode] if self.engine == "aprtui" else []
        stages, layers = (
            dict.fromkeys(node.stage for node in nodes),
            sorted({n.layer for n in nodes if n.layer is not None}),
        )
        chosen = ["--save-tensor", ",".join(stages)] if stages else []
        chosen += ["--save-tensor-layers", ",".join(map(str, layers))] if layers else []
        return shlex.join(
            ["aprtui", "trace", *self.model, *prompt, *mode, *chosen, *more, "--save-tensor-dir", _NEW]
        )  # fmt: skip

    @property
    def words(self) -> str:
        """How the capture is to be made."""
        return "captured by" if self.engine in _OWN else f"captured from {_UNKNOWN}, as this does from ours"


_OWN = ("aprtui", "llama.cpp", "transformers")


def run_of(capture: Capture, model: Path | None, *, embedded: bool = False) -> Run:
    """The run of `capture`, with the model that was given for it; `embedded` says that none stands for the embedded
    one."""
    if model is None and not embedded and _is_of_embedded(capture):
        model = Path(embedded_model().stem)
    name = () if model is None and embedded else (str(model or "MODEL"),)
    tokens = tuple(capture.tokens or ())
    if capture.manifest is None:
        return Run(model=name, tokens=tokens)
    engine = capture.manifest.engine
    return Run(engine.name, engine.mode, name, tokens)


def _is_of_embedded(capture: Capture) -> bool:
    """Whether the manifest states the embedded model, whose name every command takes."""
    return capture.manifest is not None and capture.manifest.model.sha256 == file_digest(embedded_model())
