"""The tokenizer of a GGUF file against the files of a Hugging Face folder: other ids are another text to the model.

`tokenizer.json` is that of the library `tokenizers`: `model.vocab` (a mapping, or a list of text and score) and
`added_tokens`. What ends a text stands in `generation_config.json`, else in `config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted
from aprtui.conversion.checkpoint import Checkpoint
from aprtui.conversion.finding import FileFinding
from aprtui.errors import UnreadableError
from aprtui.model.model import Model
from aprtui.model.vocabulary import Vocabulary

_MOST_NAMED = 3
_WRONG_IDS = "the model reads other words than were written: text makes no sense from the first token"
_NO_STOP = "answers do not end where they should, or end too soon"


def token_findings(model: Model, checkpoint: Checkpoint) -> Iterator[FileFinding]:
    """What differs in ids, special tokens and the chat template."""
    try:
        vocabulary = model.tokenizer.vocabulary
    except UnreadableError as error:
        yield FileFinding(Verdict.UNKNOWN, "tokenizer", str(error))
        return
    yield from _texts(vocabulary, checkpoint)
    yield from _merges(model, checkpoint)
    yield from _special(vocabulary, checkpoint)
    yield from _template(model, checkpoint)


def _texts(vocabulary: Vocabulary, checkpoint: Checkpoint) -> Iterator[FileFinding]:
    theirs = _vocabulary(checkpoint.tokenizer)
    if theirs is None:
        yield FileFinding(Verdict.UNKNOWN, "tokenizer.json", "is not there: token ids were not compared")
        return
    texts = vocabulary.texts
    wrong = [(token, text) for token, text in sorted(theirs.items()) if token >= len(texts) or texts[token] != text]
    if wrong:
        named = ", ".join(f"{token} is {_in(texts, token)}, not {_quoted(text)}" for token, text in wrong[:_MOST_NAMED])
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        yield FileFinding(
            Verdict.FAIL, "tokenizer.ggml.tokens", f"{counted(len(wrong), 'token')} differ: {named}{more}",
            "embedding", _WRONG_IDS,
        )  # fmt: skip


def _vocabulary(tokenizer: Mapping[str, Any] | None) -> dict[int, str] | None:
    """Texts by id, those that were added included; None where there are none to be read."""
    model = (tokenizer or {}).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        found = {token: text for text, token in vocabulary.items() if isinstance(token, int)}
    elif isinstance(vocabulary, list):
        found = {token: entry[0] for token, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    else:
        return None
    for entry in (tokenizer or {}).get("added_tokens") or ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), int) and isinstance(entry.get("content"), str):
            found[entry["id"]] = entry["content"]
    return found


def _merges(model: Model, checkpoint: Checkpoint) -> Iterator[FileFinding]:
    """Merges in another order make other tokens of the same text."""
    of_model = (checkpoint.tokenizer or {}).get("model")
    theirs = of_model.get("merges") if isinstance(of_model, dict) else None
    ours = model.merges
    if not isinstance(theirs, list) or ours is None:
        return
    pairs = [" ".join(entry) if isinstance(entry, list) else entry for entry in theirs]
    if ours == pairs:
        return
    first = next((at for at, (a, b) in enumerate(zip(ours, pairs, strict=False)) if a != b), min(len(ours), len(pairs)))
    said = f"{len(ours)} merges in the file, {len(pairs)} in tokenizer.json; they part at merge {first}"
    yield FileFinding(Verdict.FAIL, "tokenizer.ggml.merges", said, "embedding", "the same text becomes other tokens")


def _special(vocabulary: Vocabulary, checkpoint: Checkpoint) -> Iterator[FileFinding]:
    bos = checkpoint.config.get("bos_token_id")
    adds = checkpoint.tokenizer_config.get("add_bos_token")
    if isinstance(bos, int) and vocabulary.bos is not None and vocabulary.bos != bos:
        said = f"{vocabulary.bos} in the file, {bos} in config.json"
        yield FileFinding(
            Verdict.FAIL, "tokenizer.ggml.bos_token_id", said, "embedding", "texts begin with a wrong token"
        )
    if isinstance(adds, bool) and adds is not vocabulary.add_bos:
        begin = "begin with it" if vocabulary.add_bos else "do not begin with it"
        said = f"texts {begin}, tokenizer_config.json says {str(adds).lower()}"
        symptom = "the first token is missing or twice: massive channels sit elsewhere, answers are worse"
        yield FileFinding(Verdict.FAIL, "tokenizer.ggml.add_bos_token", said, "embedding", symptom)
    stops = checkpoint.generation.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    theirs = [stops] if isinstance(stops, int) else stops if isinstance(stops, list) else []
    lost = [token for token in theirs if isinstance(token, int) and token not in vocabulary.stop_ids]
    if lost:
        named = ", ".join(_named(vocabulary, token) for token in lost[:_MOST_NAMED])
        yield FileFinding(
            Verdict.FAIL, "tokenizer.ggml.eos_token_id", f"the file does not stop at {named}", "", _NO_STOP
        )


def _template(model: Model, checkpoint: Checkpoint) -> Iterator[FileFinding]:
    ours, theirs = model.metadata.get("tokenizer.chat_template"), checkpoint.chat_template
    if theirs is None or ours == theirs:
        return
    if not isinstance(ours, str):
        said = "the file has none, the folder has one"
    elif ours.strip() == theirs.strip():
        return
    else:
        lines = zip(ours.splitlines(), theirs.splitlines(), strict=False)
        line = next((number for number, (a, b) in enumerate(lines, 1) if a != b), "the end")
        said = f"another one than the folder has: they part at line {line}"
    symptom = "conversations are framed otherwise than in training: answers wander, or do not end"
    yield FileFinding(Verdict.UNKNOWN, "tokenizer.chat_template", f"{said} (later fixes may be meant)", "", symptom)


def _named(vocabulary: Vocabulary, token: int) -> str:
    return f"{token} ({_in(vocabulary.texts, token)})"


def _in(texts: Sequence[str], token: int) -> str:
    return _quoted(texts[token]) if 0 <= token < len(texts) else "missing"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
