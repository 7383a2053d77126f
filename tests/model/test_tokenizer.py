"""Rules of the tokenizer one by one; whole texts are compared with llama.cpp's ids in `test_tokenizer_golden.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.gguf_file import GgufFile
from aprtui.model.tokenizer import Tokenizer, build_tokenizer
from aprtui.model.vocabulary import TokenType
from tests.model.gguf_files import ModelFile, byte_pair_vocabulary, sentence_piece_vocabulary

BOS, IM_START, IM_END = 269, 270, 271


def build(folder: Path, metadata: dict[str, Any]) -> Tokenizer:
    path = ModelFile("llama", metadata).write(folder / "vocabulary.gguf")
    return build_tokenizer(path, GgufFile(path).metadata)


def byte_pair(folder: Path, pre_tokenizer: str = "qwen2", **changes: Any) -> Tokenizer:
    changed = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    metadata = byte_pair_vocabulary(pre_tokenizer) | changed
    return build(folder, {key: value for key, value in metadata.items() if value is not None})


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token_bytes(token).decode() for token in tokenizer.encode(text, bos=False)]


def test_merges_apply_in_order_of_their_rank(tmp_path: Path) -> None:
    assert pieces(byte_pair(tmp_path), "def return return") == ["def", " return", " return"]


def test_control_tokens_in_the_text_are_read_only_when_asked(tmp_path: Path) -> None:
    tokenizer = byte_pair(tmp_path)
    assert tokenizer.encode("a<|im_end|>b") == [*tokenizer.encode("a"), IM_END, *tokenizer.encode("b")]
    assert IM_END not in tokenizer.encode("a<|im_end|>b", special=False)
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>b", special=False)) == "a<|im_end|>b"


def test_user_defined_tokens_are_cut_out_even_when_special_ones_are_not(tmp_path: Path) -> None:
    texts = [*byte_pair_vocabulary("qwen2")["tokenizer.ggml.tokens"], "<think>"]
    types = [*byte_pair_vocabulary("qwen2")["tokenizer.ggml.token_type"], int(TokenType.USER_DEFINED)]
    tokenizer = byte_pair(tmp_path, tokens=texts, token_type=types)
    assert 272 in tokenizer.encode("x<think>y", special=False)
    assert not tokenizer.is_special(272) and tokenizer.token_bytes(272) == b"<think>"


def test_longest_special_token_wins(tmp_path: Path) -> None:
    texts = [*byte_pair_vocabulary("qwen2")["tokenizer.ggml.tokens"], "<|im_end|><|im_end|>"]
    types = [*byte_pair_vocabulary("qwen2")["tokenizer.ggml.token_type"], int(TokenType.CONTROL)]
    tokenizer = byte_pair(tmp_path, tokens=texts, token_type=types)
    assert tokenizer.encode("<|im_end|><|im_end|><|im_end|>") == [272, IM_END]


def test_bos_is_added_as_the_file_says_unless_the_caller_says_otherwise(tmp_path: Path) -> None:
    adds = byte_pair(tmp_path, add_bos_token=True)
    assert adds.encode("")[:1] == [BOS] and adds.encode("", bos=False) == []
    assert byte_pair(tmp_path).encode("") == [] and byte_pair(tmp_path).encode("", bos=True) == [BOS]
    assert byte_pair(tmp_path, "llama-bpe", add_bos_token=None).encode("") == [BOS], "llama.cpp's default for llama-bpe"
    assert byte_pair(tmp_path, "qwen2", add_bos_token=None).encode("") == []
    assert byte_pair(tmp_path, bos_token_id=None, add_bos_token=True).encode("") == []


def test_eos_is_added_where_the_file_says_so(tmp_path: Path) -> None:
    assert byte_pair(tmp_path, add_eos_token=True).encode("")[-1:] == [IM_END]


def test_stop_tokens_are_known_by_id_and_by_text(tmp_path: Path) -> None:
    assert byte_pair(tmp_path, eos_token_id=97).stop_ids == {97, BOS, IM_END}
    assert byte_pair(tmp_path, eos_token_id=1 << 20).stop_ids == {BOS, IM_END}, (
        "ids outside the vocabulary do not count"
    )


def test_a_message_of_gpt_oss_is_no_end_of_a_turn_and_its_marks_are_added_tokens() -> None:
    """As llama.cpp has it, whose ids these are; the file calls them all control tokens."""
    path = Path(__file__).parent.parent / "data" / "tokenizers" / "small-gpt-4o.gguf"
    tokenizer = build_tokenizer(path, GgufFile(path).metadata)
    start, end, message = 2550, 2551, 2552
    for special in (False, True):
        ids = tokenizer.encode("<|start|>user<|message|>hi<|end|><|start|>", special=special)
        assert ids == [start, 1156, 114, message, 451, end, start]
    assert tokenizer.encode("a<|return|>", special=False)[-1] != 2548
    assert tokenizer.stop_ids == {2548, 2553}, "<|return|> and <|call|>"


def test_llama_pre_tokenizer_takes_whole_words_whatever_the_merges_say(tmp_path: Path) -> None:
    texts = byte_pair_vocabulary("llama-bpe")["tokenizer.ggml.tokens"]
    tokens = [*texts[:-3], "xyz", *texts[-3:]]
    types = [int(TokenType.NORMAL)] * (len(tokens) - 3) + [int(TokenType.CONTROL)] * 3
    assert pieces(byte_pair(tmp_path, "llama-bpe", tokens=tokens, token_type=types), "xyz") == ["xyz"]
    assert pieces(byte_pair(tmp_path, "qwen2", tokens=tokens, token_type=types), "xyz") == ["x", "y", "z"]


def test_digits_split_as_the_pre_tokenizer_says(tmp_path: Path) -> None:
    assert pieces(byte_pair(tmp_path, "llama-bpe"), "12") == ["12"]
    assert pieces(byte_pair(tmp_path, "qwen2"), "12") == ["1", "2"]
    assert pieces(byte_pair(tmp_path, "smollm"), " 12") == [" ", "1", "2"]
    assert pieces(byte_pair(tmp_path, "deepseek-llm"), "12") == ["12"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "bloom"}, r"tokenizer\.ggml\.pre is 'bloom', supported are qwen2, .*give token ids"),
        ({"model": "t5"}, r"tokenizer\.ggml\.model is 't5', supported are gpt2, llama"),
        ({"model": None}, r"the model has no tokenizer \(tokenizer\.ggml\.model\)"),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens is missing"),
        ({"tokens": [1, 2]}, r"tokenizer\.ggml\.tokens is no array of strings"),
        ({"tokens": ["a", "a"]}, r"tokenizer\.ggml\.tokens holds the same text twice"),
        ({"token_type": [1, 1]}, r"tokenizer\.ggml\.token_type is not one number for each of 272 tokens"),
        ({"merges": None}, r"tokenizer\.ggml\.merges is missing"),
        ({"merges": ["q q"]}, r"tokenizer\.ggml\.merges does not fit the vocabulary"),
    ],
)
def test_unusable_vocabulary_is_refused_by_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableError, match=message) as caught:
        byte_pair(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_missing_pre_tokenizer_means_default(tmp_path: Path) -> None:
    text = "x=1234 'll don't"
    assert byte_pair(tmp_path, pre=None).encode(text) == byte_pair(tmp_path, "default").encode(text)


def test_unknown_ids_and_broken_text_are_usage_errors(tmp_path: Path) -> None:
    tokenizer = byte_pair(tmp_path)
    with pytest.raises(UsageError, match="token id 272 does not exist; the vocabulary has 0 to 271"):
        tokenizer.decode([272])
    with pytest.raises(UsageError, match="token id -1 does not exist"):
        tokenizer.token_bytes(-1)
    with pytest.raises(UsageError, match=r"not UTF-8 \(at character 1\)"):
        tokenizer.encode("a\udcff")


def test_sentence_piece_merges_the_leftmost_of_equal_scores(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, sentence_piece_vocabulary(dict.fromkeys(["▁", "a", "b", "c", "bc", "ab"], -1.0)))
    assert pieces(tokenizer, "abc") == [" ", "ab", "c"]


def test_sentence_piece_merges_the_best_score_first(tmp_path: Path) -> None:
    scores = {"▁": -9.0, "a": -9.0, "b": -9.0, "c": -9.0, "ab": -2.0, "bc": -1.0}
    assert pieces(build(tmp_path, sentence_piece_vocabulary(scores)), "abc") == [" ", "a", "bc"]


def test_sentence_piece_merges_characters_that_are_no_tokens_themselves(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, sentence_piece_vocabulary({"▁": -1.0, "日本": -2.0}))
    assert pieces(tokenizer, "日本") == [" ", "日本"]
    assert tokenizer.encode("日", bos=False)[1:] == [3 + byte for byte in "日".encode()]
    assert tokenizer.decode(tokenizer.encode("日", bos=False)) == "日"


def test_sentence_piece_puts_a_space_before_each_text_unless_the_file_says_not_to(tmp_path: Path) -> None:
    metadata = sentence_piece_vocabulary({"▁": -1.0, "a": -2.0, "▁a": -1.5})
    tokenizer = build(tmp_path, metadata)
    assert [tokenizer.token_bytes(token) for token in tokenizer.encode("a</s>a")] == [b"<s>", b" a", b"</s>", b" a"]
    plain = build(tmp_path, metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert [plain.token_bytes(token) for token in plain.encode("a</s>a")] == [b"<s>", b"a", b"</s>", b"a"]


@pytest.mark.parametrize(
    ("drop", "message"),
    [("scores", r"tokenizer\.ggml\.scores is not one number for each of 260 tokens"), ("tokens", "tokens is missing")],
)
def test_incomplete_sentence_piece_vocabulary_is_refused(tmp_path: Path, drop: str, message: str) -> None:
    metadata = sentence_piece_vocabulary({"▁": -1.0})
    del metadata[f"tokenizer.ggml.{drop}"]
    with pytest.raises(UnreadableError, match=message):
        build(tmp_path, metadata)


def test_every_token_of_a_vocabulary_has_bytes_whatever_its_type_claims(tmp_path: Path) -> None:
    metadata = sentence_piece_vocabulary({"▁": -1.0, "a": -1.0})
    metadata["tokenizer.ggml.token_type"] = [int(TokenType.BYTE)] * 261
    tokenizer = build(tmp_path, metadata)
    assert tokenizer.token_bytes(3 + 0xAB) == b"\xab"
    assert [tokenizer.token_bytes(token) for token in (0, 260)] == [b"<unk>", b"a"]


def test_sentence_piece_without_byte_tokens_is_refused(tmp_path: Path) -> None:
    metadata = sentence_piece_vocabulary({"▁": -1.0})
    metadata["tokenizer.ggml.tokens"][100] = "no byte"
    with pytest.raises(UnreadableError, match="lacks some of the byte tokens"):
        build(tmp_path, metadata)


def test_a_piece_is_the_text_of_one_token_and_shows_bytes_that_are_no_character(tmp_path: Path) -> None:
    tokenizer = byte_pair(tmp_path)
    ids = tokenizer.encode("def\nö<|im_end|>", bos=False)
    assert [tokenizer.piece(token) for token in ids] == ["def", "\n", "\\xc3", "\\xb6", "<|im_end|>"]
    with pytest.raises(UsageError, match="does not exist"):
        tokenizer.piece(tokenizer.size)
