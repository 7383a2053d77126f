"""Split models: opened by any part as the whole file is; parts that are missing or another's are named in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.model.gguf_file import GgufFile
from aprtui.model.lookup import find_models
from aprtui.model.model import load_model
from aprtui.model.split_files import first_part, model_stem, parts_there
from aprtui.model.tensor_table import TensorReader, tensor_table
from aprtui.trace.manifest import ModelInfo
from tests.model.gguf_files import ModelFile, add_value, model_file

PARTS = 3


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return model_file(layers=2).write_parts(tmp_path, PARTS)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return model_file(layers=2).write(tmp_path / "whole.gguf")


def problem(path: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("opened", range(PARTS))
def test_a_split_model_is_the_whole_one_whichever_part_is_opened(parts: list[Path], whole: Path, opened: int) -> None:
    ours, reference = load_model(parts[opened]), load_model(whole)
    assert (ours.path, ours.config, ours.graph.nodes) == (parts[0], reference.config, reference.graph.nodes)
    assert list(ours.weights) == list(reference.weights)
    for name, weight in ours.weights.items():
        np.testing.assert_array_equal(weight.data, reference.weights[name].data)
        assert not weight.data.flags.owndata, "a view of the map"
    assert ours.tokenizer.encode("def f") == reference.tokenizer.encode("def f")
    assert ours.size == sum(path.stat().st_size for path in parts)


def test_parts_of_the_gguf_packages_own_writer_open(tmp_path: Path, whole: Path) -> None:
    file = model_file(layers=2)
    writer = gguf.GGUFWriter(tmp_path / "own.gguf", file.architecture, split_max_tensors=7, small_first_shard=True)
    for key, value in file.metadata.items():
        add_value(writer, key, value)
    for name, tensor in file.tensors.items():
        writer.add_tensor(name, tensor.data, raw_dtype=gguf.GGMLQuantizationType(tensor.type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(tmp_path.glob("own-*.gguf"))
    assert len(paths) > 2 and tensor_table(paths[0])[0].path == paths[1], "none are in the first"
    ours, reference = load_model(paths[-1]), load_model(whole)
    for name, weight in ours.weights.items():
        np.testing.assert_array_equal(weight.data, reference.weights[name].data)


def test_tensors_say_which_file_holds_them(parts: list[Path], whole: Path) -> None:
    table = tensor_table(parts[0])
    assert {info.path for info in table} == set(parts)
    for info, expected in zip(table, tensor_table(whole), strict=True):
        reader, reference = TensorReader(info), TensorReader(expected)
        np.testing.assert_array_equal(
            reader.values(slice(0, 1), slice(0, 32)), reference.values(slice(0, 1), slice(0, 32))
        )
        reader.close()
        reference.close()


def test_the_digest_is_that_of_all_parts_and_finds_the_model_once(parts: list[Path]) -> None:
    model = load_model(parts[1])
    assert model.sha256() == hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()
    wanted = ModelInfo(model.name, model.sha256(), model.architecture, model.quantization)
    assert find_models(wanted, reversed(parts)) == (parts[0],)
    assert find_models(replace(wanted, sha256=None), parts) == (parts[0],)


def test_names_of_parts(parts: list[Path], tmp_path: Path) -> None:
    assert [first_part(path) for path in parts] == [parts[0]] * PARTS
    assert parts_there(parts[2]) == tuple(parts)
    assert [model_stem(Path(name)) for name in ("a-00002-of-00003.gguf", "a-2-of-3.gguf")] == ["a", "a-2-of-3"]
    assert model_stem(Path(f"sha256-{'0123456789abcdef' * 4}")) == "sha256-0123456789ab", "a file of Ollama's"
    parts[0].unlink()
    assert first_part(parts[1]) == parts[1] and parts_there(parts[2]) == tuple(parts[1:])
    assert parts_there(tmp_path / "whole.gguf") == (tmp_path / "whole.gguf",)


def test_a_model_without_a_name_is_called_by_its_files_without_the_part(tmp_path: Path) -> None:
    file = model_file()
    del file.metadata["general.name"]
    assert load_model(file.write_parts(tmp_path, 2, "tiny")[1]).name == "tiny"


@pytest.mark.parametrize("count", [0, 1])
def test_a_merged_file_keeps_its_keys_and_is_whole(tmp_path: Path, count: int) -> None:
    file = model_file()
    file.metadata |= {"split.no": 0, "split.count": count, "split.tensors.count": len(file.tensors)}
    assert len(load_model(file.write(tmp_path / "merged.gguf")).weights) == len(file.tensors)


def test_missing_parts_are_named(parts: list[Path]) -> None:
    parts[0].unlink()
    parts[2].unlink()
    assert problem(parts[1]) == (
        f"{parts[1]}: part 2 of 3 of a model; missing in its folder: model-00001-of-00003.gguf, "
        "model-00003-of-00003.gguf: fetch what is missing"
    )


def test_a_count_out_of_reach_is_one_short_line(tmp_path: Path) -> None:
    file = model_file()
    file.metadata |= {"split.no": 0, "split.count": 65535, "split.tensors.count": 7}
    text = problem(file.write(tmp_path / "model-00001-of-65535.gguf"))
    assert "model-00004-of-65535.gguf and 65531 more: fetch" in text
    file.metadata["split.count"] = 4_000_000_000
    assert "part 1 of 4000000000 by its header, 1 of 65535 by its name" in problem(
        file.write(tmp_path / "model-00001-of-65535.gguf")
    )


def test_a_renamed_part_is_told_its_name(parts: list[Path]) -> None:
    renamed = parts[1].rename(parts[1].parent / "renamed.gguf")
    assert problem(renamed).endswith("the others are found by its name: name it NAME-00002-of-00003.gguf")
    swapped = renamed.rename(parts[2])
    assert "part 2 of 3 by its header, 3 of 3 by its name" in problem(swapped)


def changed_second(change: Callable[[ModelFile], object]) -> Callable[[list[Path]], None]:
    """Write the second part again, changed."""

    def apply(parts: list[Path]) -> None:
        file = model_file(layers=2)
        names = list(file.tensors)
        each = -(-len(names) // PARTS)
        metadata = {"split.no": 1, "split.count": PARTS, "split.tensors.count": len(names)}
        second = ModelFile("qwen2", metadata, {name: file.tensors[name] for name in names[each : 2 * each]})
        change(second)
        second.write(parts[1])

    return apply


def copied_first(parts: list[Path]) -> None:
    parts[1].write_bytes(parts[0].read_bytes())


def halved_last(parts: list[Path]) -> None:
    data = parts[-1].read_bytes()
    parts[-1].write_bytes(data[: len(data) // 2])


def cut_header(parts: list[Path]) -> None:
    parts[-1].write_bytes(parts[-1].read_bytes()[:60])


def empty_last(parts: list[Path]) -> None:
    parts[-1].write_bytes(b"")


def other_count(parts: list[Path]) -> None:
    changed_second(lambda file: file.metadata.update({"split.count": 4}))(parts)


def another_tensor(file: ModelFile) -> None:
    file.tensors["token_embd.weight"] = next(iter(file.tensors.values()))


@pytest.mark.parametrize(
    ("harm", "part", "expected"),
    [
        (copied_first, 1, "split.no is 0, expected 1: a copy of another part, fetch it again"),
        (halved_last, 2, "fetch or convert it again"),
        (cut_header, 2, "truncated: "),
        (empty_last, 2, "too short to be a GGUF file (0 bytes)"),
        (other_count, 1, "split.count is not that of model-00001-of-00003.gguf: parts of different models"),
        (
            changed_second(lambda file: file.metadata.update({"split.tensors.count": 9})), 1,
            "split.tensors.count is not that of model-00001-of-00003.gguf: parts of different models",
        ),
        (
            changed_second(lambda file: file.metadata.update({"general.name": "other"})), 1,
            "general.name is not that of model-00001-of-00003.gguf: parts of different models",
        ),
        (changed_second(lambda file: file.metadata.pop("split.no")), 1, "split.no is missing, expected a whole number"),
        (
            changed_second(lambda file: file.metadata.update({"split.no": "one"})), 1,
            "split.no is 'one', expected a whole number",
        ),
        (
            changed_second(another_tensor), 1,
            "tensor token_embd.weight is in model-00001-of-00003.gguf as well: parts of different models",
        ),
        (
            changed_second(lambda file: file.tensors.popitem()), 0,
            "all parts have 26 tensors, expected 27 (split.tensors.count): parts of different models",
        ),
    ],
)  # fmt: skip
def test_parts_that_do_not_belong_together_are_refused(
    parts: list[Path], harm: Callable[[list[Path]], None], part: int, expected: str
) -> None:
    harm(parts)
    text = problem(parts[0])
    assert text.startswith(f"{parts[part]}: ") and expected in text
    # Opened by another part, the same is said.
    assert problem(parts[2] if part != 2 else parts[1]) == text


def test_a_setting_in_a_later_part_is_not_passed_over(tmp_path: Path, parts: list[Path]) -> None:
    changed_second(lambda file: file.metadata.update({"qwen2.rope.scaling.type": "longrope"}))(parts)
    assert "qwen2.rope.scaling.type" in problem(parts[0])


def test_each_part_has_an_alignment_of_its_own(parts: list[Path], whole: Path) -> None:
    changed_second(lambda file: file.metadata.update({"general.alignment": 256}))(parts)
    assert GgufFile(parts[1]).paths == tuple(parts)
