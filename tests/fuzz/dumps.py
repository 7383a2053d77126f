"""Harnesses of what other tools write: files of tensors, and folders of each format that is imported."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from aprtui.importing.elements import SourceTensor
from aprtui.importing.formats.registry import FORMATS, SAMPLE_FORMATS, format_of, sample_format_of
from aprtui.importing.import_format import PartChoice
from aprtui.importing.importer import propose_mapping
from aprtui.importing.planning import plan, values_of
from aprtui.importing.reading import ImportRequest
from aprtui.importing.source import read_tensors
from aprtui.model.model import load_model
from aprtui.trace.aprt import write_aprt
from aprtui.trace.export.tensors import MAPPING_FILE
from tests.fuzz.harness import Harness, Target, in_folder, replace_file
from tests.fuzz.model_files import small_model
from tests.importing.dumps import write_safetensors, write_torch

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
IDS = np.array([5, 6, 7])
_DTYPES = (
    b"F32",
    b"BF16",
    b"F8_E4M3",
    b"I64",
    b"<f2",
    b">f8",
    b"|V2",
    b"True",
    b"(3, 4)",
    b"'fortran_order'",
    b"[3,4]",
)


def read_values(tensors: dict[str, SourceTensor]) -> None:
    for tensor in tensors.values():
        with np.errstate(all="ignore"):
            tensor.floats()
        tensor.integers()


def _file(name: str, *samples: bytes) -> Callable[[Path], Target]:
    def prepare(folder: Path) -> Target:
        path = folder / name

        def run(data: bytes) -> None:
            replace_file(path, data)
            read_values(read_tensors(path))

        return Target(run, samples, _DTYPES)

    return prepare


def _saved(*arrays: np.ndarray) -> tuple[bytes, ...]:
    found = []
    for array in arrays:
        data = io.BytesIO()
        np.save(data, array)
        found.append(data.getvalue())
    return tuple(found)


def _npz() -> tuple[bytes, ...]:
    found = []
    for save in (np.savez, np.savez_compressed):
        data = io.BytesIO()
        save(data, a=ROWS, b=IDS)
        found.append(data.getvalue())
    return tuple(found)


def _safetensors(folder: Path) -> Target:
    tensors = {"a": ("F32", ROWS.shape, ROWS.tobytes()), "b.c": ("BF16", (2, 1), bytes(4)), "d": ("F8_E4M3", (), b"x")}
    sample = write_safetensors(folder / "x.safetensors", tensors).read_bytes()
    return _file("t.safetensors", sample)(folder)


def _torch_value() -> dict[str, object]:
    return {"a": ROWS, "b": {"c": IDS, "d": [ROWS[:1], 3, "text"]}}


def _torch_archive(folder: Path) -> Target:
    sample = write_torch(folder / "x.pt", _torch_value()).read_bytes()
    return _file("t.pt", sample)(folder)


_PICKLE_WORDS = (
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n", b"cposix\nsystem\n", b"ccollections\nOrderedDict\n",
    b")R", b"tR", b"tQ", b"(", b"]", b"}", b"u", b"e", b"s", b"a", b"0", b"2", b"q\0", b"h\0", b"\x94", b"\x93",
    b"\x81",
    b"b",    b"ctorch\nHalfStorage\n", b"ctorch\ndevice\n", b"c__builtin__\nset\n", b"J\xff\xff\xff\x7f",
    b"\x8a\x09" + b"\xff" * 9,
)  # fmt: skip


def _torch(folder: Path) -> Target:
    """The pickle of a file of torch, in an archive that is sound."""
    sample = write_torch(folder / "x.pt", _torch_value())
    with zipfile.ZipFile(sample) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    content = members.pop("archive/data.pkl")
    rest = io.BytesIO()
    with zipfile.ZipFile(rest, "w") as archive:
        for name, bytes_of_member in members.items():
            archive.writestr(name, bytes_of_member)
    path = folder / "t.pt"

    def run(data: bytes) -> None:
        packed = io.BytesIO(rest.getvalue())
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr("archive/data.pkl", data)
        replace_file(path, packed.getvalue())
        read_values(read_tensors(path))

    plain = pickle.dumps({"a": [1, "x", (2.5, None)], "b": {"c": {1, 2}}}, protocol=4)
    return Target(run, (content, plain), _PICKLE_WORDS)


def _legacy_torch(folder: Path) -> Target:
    """A file of torch before version 1.6: pickles one after the other, then the storages."""
    with zipfile.ZipFile(write_torch(folder / "x.pt", {"a": ROWS})) as archive:
        content = archive.read("archive/data.pkl")
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    parts = [pickle.dumps(part, 2) for part in head] + [content, pickle.dumps(["0"], 2)]
    sample = b"".join(parts) + (ROWS.size).to_bytes(8, "little") + ROWS.tobytes()
    return _file("t.pth", sample)(folder)


def _write_apr_positions(folder: Path) -> None:
    for position in range(2):
        for stage in ("attn_norm", "ffn_out"):
            write_aprt(folder / f"pos-{position:04d}" / "layer-0" / f"{stage}.bin", 0, ROWS[position])


def _write_edge_llm(folder: Path) -> None:
    kv = np.zeros((1, 2, 1, 4, 2), np.float32)
    write_safetensors(
        folder / "dump.safetensors",
        {
            "round_0.layer_0.kv": ("F32", kv.shape, kv.tobytes()),
            "round_0.logits": ("F32", (1, 4), ROWS[:1].tobytes()),
            "round_0.context_lengths": ("I32", (1,), np.int32(3).tobytes()),
        },
    )


def _write_llama_logits(folder: Path) -> None:
    ROWS[0].tofile(folder / "llamacpp-m.bin")
    IDS.astype(np.int32).tofile(folder / "llamacpp-m-tokens.bin")
    (folder / "llamacpp-m-prompt.txt").write_text("prompt: x\nn_tokens: 3\n")


def _write_mapped(folder: Path) -> None:
    np.save(folder / "norm.0.npy", ROWS)
    (folder / MAPPING_FILE).write_text("stages:\n  attn_norm: norm.{layer}\ntokens: [5, 6, 7]\n")


def _write_msprobe(folder: Path) -> None:
    rank = folder / "step0" / "rank0"
    modules = {"model.embed_tokens": "output", "model.layers.0.input_layernorm": "output", "lm_head": "output"}
    for module, kind in modules.items():
        write_torch(rank / "dump_tensor_data" / f"Module.{module}.X.forward.0.{kind}.0.pt", ROWS[None])
    write_torch(rank / "dump_tensor_data" / "Module.model.embed_tokens.X.forward.0.input.0.pt", IDS[None])
    (rank / "dump.json").write_text(json.dumps({"task": "tensor", "level": "mix", "data": {}}))


def _sglang_modules() -> dict[str, object]:
    block = "model.layers.0"
    return {
        "model.embed_tokens": ROWS, f"{block}.input_layernorm": ROWS, f"{block}.self_attn.rotary_emb": [ROWS, ROWS],
        f"{block}.post_attention_layernorm": [ROWS, ROWS], f"{block}.mlp.down_proj": ROWS, "model.norm": [ROWS, ROWS],
    }  # fmt: skip


def _write_sglang_passes(folder: Path) -> None:
    batch = {"input_ids": IDS, "seq_lens": np.array([3]), "positions": np.arange(3)}
    modules = _sglang_modules() | {f"model.forward_batch_info.{name}": values for name, values in batch.items()}
    rank = folder / "TP0_PP0_Rank0_pid77"
    write_torch(rank / "Pass00000.pt", modules)
    late = {"logits_processor": ROWS[2:], "model.layers.0.input_layernorm": ROWS[:0]}
    write_torch(rank / "Pass00001.pt", late)


def _write_sglang_dumper(folder: Path) -> None:
    values = {"input_ids": IDS, "positions": np.arange(3), "seq_lens": np.array([3])}
    values["non_intrusive__model.layers.0.input_layernorm.output"] = ROWS
    for index, (name, value) in enumerate(values.items()):
        file = folder / f"step=0___rank=0___dump_index={index}___name={name}.pt"
        write_torch(file, {"value": value, "meta": {"step": 0}})


def _write_transformers_debugger(folder: Path) -> None:
    (folder / "Qwen2_debug_tree_FULL_TENSORS.json").write_text("{}")
    ids = {"data": ("I64", (1, 3), IDS.astype("<i8").tobytes())}
    rows = {"data": ("F32", (1, 3, 4), ROWS.tobytes())}
    write_safetensors(folder / "Qwen2_inputs_kwargs_input_ids.safetensors", ids)
    write_safetensors(folder / "Qwen2.model.layers.0.input_layernorm_outputs.safetensors", rows)


def _write_trt_llm(folder: Path) -> None:
    rank = folder / "rank0"
    model = "1.Qwen2Model"
    write_torch(rank / f"{model}-1.Embedding-input.input.pt", IDS.astype(np.int32))
    write_torch(rank / f"{model}-1.Embedding-output.1.pt", ROWS)
    write_torch(rank / f"{model}-2.Qwen2DecoderLayer-1.RMSNorm-output.2.pt", ROWS)


WRITERS: dict[str, Callable[[Path], None]] = {
    "apr-positions": _write_apr_positions, "edge-llm": _write_edge_llm, "llama-logits": _write_llama_logits,
    "mapped": _write_mapped, "msprobe": _write_msprobe, "sglang-passes": _write_sglang_passes,
    "sglang-dumper": _write_sglang_dumper, "transformers-debugger": _write_transformers_debugger,
    "trt-llm": _write_trt_llm,
}  # fmt: skip
"""A small dump of each format."""


def _dump(name: str, folder: Path) -> Target:
    dump = folder / "dump"
    dump.mkdir()
    WRITERS[name](dump)
    source = next(dump.iterdir()) if name == "edge-llm" else dump
    entry = format_of(source)
    assert entry is not None and entry.name == name

    def read(_: Path) -> None:
        if not entry.recognises(source):
            format_of(source)
            sample_format_of(source)
        found, mapping = entry.read(source, PartChoice(), None)
        for node, made in plan(mapping, found.tensors).nodes.items():
            values_of(node, made)

    return in_folder(dump, read, _DTYPES)


def _samples(name: str, folder: Path) -> Target:
    """A dump of parts of tensors, read with the model that it is of."""
    entry = next(entry for entry in SAMPLE_FORMATS if entry.name == name)
    model = load_model(small_model().write(folder / "model.gguf"))
    path = folder / "dump"
    sample = _SAMPLES[name](path)
    assert entry.recognises(path)

    def run(data: bytes) -> None:
        replace_file(path, data)
        format_of(path)
        sample_format_of(path)
        for stage in entry.read(path, PartChoice(), model).stages:
            stage.take(np.zeros(stage.values.shape, np.float32))

    return Target(
        run, (sample,), (b"nan", b"-inf", b"{4, 3, 1, 1}", b"MUL_MAT", b"number of input tokens = ", b"ggml_debug:")
    )


def _eval_text(path: Path) -> bytes:
    lines = ["number of input tokens = 3", "  5", "  6", "  7"]
    for name, op, weight in (
        ("inp_embd", "GET_ROWS", "token_embd.weight"),
        ("attn_norm-0", "MUL", "blk.0.attn_norm.weight"),
    ):
        lines += [
            f"common_debug_cb_eval: {name} = (f32) {op}({weight}{{32, 3, 1, 1}}, x{{3, 1, 1, 1}}}}) = {{32, 3, 1, 1}}"
        ]
        lines += ["  [", "   [", *["    [ 0.0001, -1.5000, 2.0000, ..., 0.1000, 0.2000, 0.3000 ],"] * 3, "   ],", "  ]"]
        lines += ["  sum = 1.0"]
    path.write_text("\n".join(lines))
    return path.read_bytes()


def _kld(path: Path) -> bytes:
    vocabulary = 4
    rows = np.zeros((1, 4 + vocabulary), "<u2").tobytes()
    path.write_bytes(b"_logits_" + np.array([4, vocabulary, 1, 5, 6, 7, 8], "<i4").tobytes() + rows)
    return path.read_bytes()


def _imatrix(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_string("general.type", "imatrix")
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.full((1, 1), 3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


_SAMPLES: dict[str, Callable[[Path], bytes]] = {"eval-callback": _eval_text, "kld": _kld, "imatrix": _imatrix}


def _guess(folder: Path) -> Target:
    """Names of tensors that are guessed at."""
    names = ("model.layers.0.self_attn.q_proj", "h.3.attn.c_attn", "blk.0.ffn_norm", "attention/out-0", "token_embd")
    path = folder / "x.safetensors"
    tensors = {name: ("F32", ROWS.shape, ROWS.tobytes()) for name in names}
    sample = write_safetensors(path, tensors).read_bytes()

    def run(data: bytes) -> None:
        replace_file(path, data)
        propose_mapping(path, ImportRequest())

    return Target(run, (sample,), (b"layers.", b"mlp.gate_proj", b"_norm", b"lm_head", b"99999999999"))


def _of_format(name: str) -> Harness:
    return Harness(f"import-{name}", lambda folder: _dump(name, folder))


def _of_samples(name: str) -> Harness:
    return Harness(f"samples-{name}", lambda folder: _samples(name, folder))


DUMPS = (
    Harness("npy", _file("t.npy", *_saved(ROWS, IDS, np.asfortranarray(ROWS.astype(">f2"))))),
    Harness("npz", _file("t.npz", *_npz())),
    Harness("safetensors", _safetensors), Harness("torch", _torch), Harness("torch-archive", _torch_archive),
    Harness("torch-legacy", _legacy_torch), Harness("guess", _guess),
    *(_of_format(entry.name) for entry in FORMATS),
    *(_of_samples(entry.name) for entry in SAMPLE_FORMATS),
)  # fmt: skip
