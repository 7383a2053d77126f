"""Chat templates against the renders of transformers' sandbox (`tests/data/chat`, which says how they were made)."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import UsageError
from aprtui.model import chat
from aprtui.model.chat import ChatTemplate

DATA = Path(__file__).parent.parent / "data" / "chat"


def templates(file: str) -> list[Any]:
    golden = json.loads((DATA / file).read_text(encoding="utf-8"))
    return [pytest.param(golden, template, id=template["name"]) for template in golden["templates"]]


def check(golden: dict[str, Any], expected: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FrozenClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> FrozenClock:
            return cls.fromisoformat(golden["now"])

    monkeypatch.setattr(chat, "datetime", FrozenClock)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == expected["sha256"], "the template is another one"
    template = ChatTemplate(
        path.read_text(encoding="utf-8"), bos_token=golden["bos_token"], eos_token=golden["eos_token"]
    )
    assert expected["renders"]
    for render in expected["renders"]:
        messages, prompt = golden["conversations"][render["conversation"]], render["add_generation_prompt"]
        if "text" in render:
            assert template.render(messages, add_generation_prompt=prompt) == render["text"]
        else:
            with pytest.raises(UsageError) as caught:
                template.render(messages, add_generation_prompt=prompt)
            assert " ".join(render["message"].split())[:200] in str(caught.value)


@pytest.mark.parametrize(("golden", "expected"), templates("own.json"))
def test_own_templates_render_as_in_transformers(
    golden: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(golden, expected, DATA / expected["name"], monkeypatch)


@pytest.mark.group("vocabularies")
@pytest.mark.parametrize(("golden", "expected"), templates("published.json"))
def test_published_templates_render_as_in_transformers(
    golden: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(golden, expected, Path(os.environ["APRTUI_VOCABS"]) / "templates" / expected["name"], monkeypatch)
