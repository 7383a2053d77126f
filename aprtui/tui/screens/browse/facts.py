"""What is known about a capture, a model or a contract without reading values, as pairs of a word and a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aprtui.compare.wording import counted, ranges
from aprtui.contracts.documents.document import Document
from aprtui.engine.sessions.session_file import SessionSummary
from aprtui.model.model_file import ModelFile
from aprtui.model.tensor_table import tensor_table
from aprtui.recordings.listing import ListedNode
from aprtui.recordings.reading import Recording
from aprtui.trace.agent_trace import AgentTrace, Speaker
from aprtui.trace.capture import provenance_tokens
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from aprtui.trace.manifest import EngineInfo, Manifest
from aprtui.tui.draw.numbers import duration

Facts = tuple[tuple[str, str], ...]

_SHOWN_IDS = 24
_LAST_TIME = 2e11
"""Seconds that a date can be made of."""
_SHOWN_STAGES = 6


def fault_words(fault: str) -> str:
    """A fault as the manifest has it, `layer=2,stage=ffn_gate,kind=scale,magnitude=0.5`, in few words."""
    fields = dict(part.partition("=")[::2] for part in fault.split(","))
    if "kind" not in fields:
        return fault
    where = [f"L{fields['layer']}"] if fields.get("layer") else []
    where += [fields["stage"]] if fields.get("stage") else []
    more = [text for name, text in fields.items() if name not in ("layer", "stage", "kind")]
    return " ".join([*where, fields["kind"], *more])


def engine_name(engine: EngineInfo) -> str:
    return engine.name if engine.backend in engine.name else f"{engine.name} {engine.backend}"


def prompt_text(manifest: Manifest) -> str:
    """What was evaluated, prompt and generated text; the ids of the tokens if no text is known."""
    if manifest.text is not None:
        return manifest.text + (manifest.completion or "")
    return "".join(manifest.pieces) if manifest.pieces else ids_text(manifest.tokens)


def ids_text(ids: Collection[int]) -> str:
    shown = " ".join(str(token) for token, _ in zip(ids, range(_SHOWN_IDS), strict=False))
    return f"ids {shown}" + (" …" if len(ids) > _SHOWN_IDS else "") if ids else ""


def capture_facts(manifest: Manifest) -> Facts:
    model, engine, graph = manifest.model, manifest.engine, manifest.graph
    generated = len(manifest.tokens) - manifest.prompt_tokens
    tokens = f"{len(manifest.tokens)}" + (f", {generated} of them generated" if generated > 0 else "")
    decoded = len(manifest.tokens) - manifest.prefill_tokens
    tokens += f"; the last {decoded} evaluated one by one" if decoded > 0 else ""
    threads = [] if engine.threads is None else [counted(engine.threads, "thread")]
    facts = [
        ("prompt", prompt_text(manifest)),
        ("tokens", tokens),
        ("logits", "of all positions" if manifest.logits == "all" else "of the last position"),
        ("model", ", ".join(filter(None, (model.name, model.quantization)))),
        ("", f"{model.architecture}, {counted(graph.layers, 'layer')}, {graph.hidden} channels, {graph.heads} heads"),
        ("engine", ", ".join([f"{engine.name} {engine.version}", engine.backend, f"mode {engine.mode}", *threads])),
        ("", ", ".join(filter(None, (engine.device, engine.code_path)))),
        ("rounds", ", ".join(f"{where.replace('_', ' ')} {what}" for where, what in engine.rounding.items())),
        *(("faults" if not number else "", text.replace(",", ", ")) for number, text in enumerate(engine.faults)),
        ("stages", stages_words({info.node for info in manifest.files.values()}, graph_for(graph))),
        *(("", f"{stage}: {why}") for stage, why in manifest.unavailable.items()),
    ]
    if manifest.wall_seconds is not None:
        facts.append(("took", duration(manifest.wall_seconds)))
    return tuple((word, text) for word, text in facts if text)


def recording_facts(recording: Recording, nodes: Sequence[ListedNode]) -> Facts:
    """Of a recording: who executed it, which ops, and how many of them are stages."""
    header, engine = recording.header, recording.header.engine
    ops = Counter(node.node.op for node in nodes).most_common()
    shown = ", ".join(f"{op} ×{count}" for op, count in ops[:_SHOWN_STAGES])
    named = sum(node.name.stage is not None for node in nodes)
    decoded = len(recording.graphs) - 1
    facts = [
        ("prompt", header.text or ids_text(header.tokens)),
        ("tokens", f"{len(header.tokens)}" + (f"; the last {decoded} evaluated one by one" if decoded else "")),
        ("model", header.model.path if header.model else ""),
        ("engine", f"{engine.name} {engine.version}"),
        ("", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in engine.settings.items())),
        ("ops", f"{counted(len(nodes), 'op')} of {header.ops}, {named} of them a stage or a part of one"),
        ("", shown + (f" and {len(ops) - _SHOWN_STAGES} more" if len(ops) > _SHOWN_STAGES else "")),
    ]
    return tuple((word, text) for word, text in facts if text)


def bare_facts(nodes: Collection[Node], provenance: Mapping[str, str]) -> Facts:
    """Of a capture without a manifest: the lines of its `_PROVENANCE.txt`, and the stages that are there."""
    ids = provenance_tokens(provenance)
    facts = [
        ("prompt", provenance.get("prompt") or ids_text(ids or ())),
        ("tokens", "" if ids is None else str(len(ids))),
        ("model", provenance.get("model", "")),
        ("engine", ", ".join(provenance[key] for key in ("dtype", "device") if key in provenance)),
        ("stages", _names(sorted({node.stage for node in nodes}))),
        ("layers", _layers(nodes)),
    ]
    return tuple((word, text) for word, text in facts if text)


def stages_words(present: Collection[Node], graph: StageGraph) -> str:
    """How many of a graph's stage tensors are there, and which are not."""
    absent = [node for node in graph.nodes if node not in present]
    if not absent:
        return f"all {len(graph.nodes)}"
    words = f"{len(graph.nodes) - len(absent)} of {len(graph.nodes)}"
    missing_layers = {node.layer for node in absent}
    whole = sorted(
        layer for layer in missing_layers if layer is not None and not any(node.layer == layer for node in present)
    )
    stages = list(dict.fromkeys(node.stage for node in absent if node.layer not in whole))
    without = [f"{counted(len(whole), 'layer')} ({ranges(whole)})"] if whole else []
    without += [_names(stages)] if stages else []
    return f"{words}; without {' and '.join(without)}"


def _names(stages: Collection[str]) -> str:
    shown = [name for name, _ in zip(stages, range(_SHOWN_STAGES), strict=False)]
    return ", ".join(shown) + (f" and {len(stages) - len(shown)} more" if len(stages) > len(shown) else "")


def _layers(nodes: Iterable[Node]) -> str:
    return ranges(sorted({node.layer for node in nodes if node.layer is not None}))


def model_facts(file: ModelFile) -> Facts:
    metadata = file.metadata
    architecture = str(metadata.get("general.architecture", ""))

    def of_architecture(key: str) -> Any:
        return metadata.get(f"{architecture}.{key}")

    layers, width = of_architecture("block_count"), of_architecture("embedding_length")
    heads, shared = of_architecture("attention.head_count"), of_architecture("attention.head_count_kv")
    context, vocabulary = of_architecture("context_length"), metadata.get("tokenizer.ggml.tokens")
    tensors = tensor_table(file.path)
    values = sum(_product(info.shape) for info in tensors)
    types = Counter(info.type for info in tensors)
    size = [
        f"{counted(layers, 'layer')}" if isinstance(layers, int) else "",
        f"{width} channels" if isinstance(width, int) else "",
        f"{heads} heads" + (f", {shared} of K/V" if isinstance(shared, int) and shared != heads else "")
        if isinstance(heads, int)
        else "",
    ]
    facts = [
        ("model", str(metadata.get("general.name", ""))),
        ("", ", ".join(filter(None, (architecture, *size)))),
        ("values", f"{values / 1e9:.3g} billion" if values >= 1e9 else f"{values / 1e6:.3g} million"),
        ("types", ", ".join(f"{name} ×{count}" for name, count in types.most_common())),
        ("context", f"{context} tokens" if isinstance(context, int) else ""),
        ("tokens", f"vocabulary of {len(vocabulary)}" if vocabulary is not None else ""),
        ("chat", "has a template" if "tokenizer.chat_template" in metadata else "no template"),
    ]
    return tuple((word, text) for word, text in facts if text)


def _product(shape: Iterable[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def contract_facts(document: Document) -> Facts:
    metadata = document.metadata
    version = f"version {metadata.version}" if metadata.version else ""
    facts = [
        ("about", " ".join(metadata.description.split())),
        ("state", ", ".join(filter(None, (document.life_cycle, version)))),
        ("rules", f"{len(document.equations)} equations, {len(document.falsifiers)} falsifiers"),
        ("needs", ", ".join(metadata.dependencies)),
    ]
    return tuple((word, text) for word, text in facts if text)


def conversation_facts(trace: AgentTrace) -> Facts:
    """Whose a conversation is, and how long it took; the file has times of the whole only."""
    ended = trace.ending
    said = [entry.text for entry in trace.entries if entry.speaker is Speaker.USER]
    called = sum(entry.speaker is Speaker.CALL for entry in trace.entries)
    failed = sum(entry.failed for entry in trace.entries)
    done = [counted(len(said), "prompt"), *([counted(called, "call")] if called else [])]
    facts = [
        ("prompt", said[0] if said else ""),
        ("agent", trace.actor),
        ("model", trace.model),
        ("begun", trace.started),
        ("took", timing_words(trace)),
        ("said", ", ".join([*done, *([f"{failed} failed or blocked"] if failed else [])])),
        ("end", "none: it goes on, or was cut off" if ended is None else ended.reason.replace("_", " ")),
        ("note", trace.problem),
        ("session", trace.session),
    ]
    return tuple((word, text) for word, text in facts if text)


def session_facts(summary: SessionSummary) -> Facts:
    """What was run in a recorded session."""
    start, engine = summary.start, summary.start.engine
    sampling = start.sampling
    made = datetime.fromtimestamp(start.created, UTC) if 0 < start.created < _LAST_TIME else None
    facts = [
        ("system", start.system),
        ("prompt", start.said),
        ("tokens", f"{len(start.tokens)} of the prompt, {summary.tokens} generated"),
        ("end", "none: its writer was ended, or still writes" if summary.end is None else str(summary.end.reason)),
        ("model", f"{engine.model}, {engine.quantization}"),
        ("", f"{engine.graph.architecture}, {counted(engine.graph.layers, 'layer')}, {engine.graph.hidden} channels"),
        ("engine", f"aprtui {start.version}, {engine.backend} ({engine.code_path})"),
        ("", f"mode {engine.mode}, K/V {engine.kv}"),
        ("choice", f"temperature {sampling.temperature:g}, seed {sampling.seed}" if sampling.temperature else "greedy"),
        *(("faults" if not number else "", text.replace(",", ", ")) for number, text in enumerate(engine.faults)),
        ("made", "" if made is None else f"{made:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    return tuple((word, text) for word, text in facts if text)


def timing_words(trace: AgentTrace) -> str:
    """How long a conversation took, and for how many tokens; empty where the file does not say."""
    ended = trace.ending
    if ended is None:
        return ""
    speed = ended.tokens_per_second
    words = [
        "" if ended.milliseconds is None else duration(ended.milliseconds / 1000),
        "" if ended.tokens_in is None else f"{ended.tokens_in} tokens in",
        "" if ended.tokens_out is None else f"{ended.tokens_out} out",
        "" if speed is None else f"{speed:.3g} tokens/s",
    ]
    return ", ".join(filter(None, words))
