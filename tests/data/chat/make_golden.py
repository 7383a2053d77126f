"""Writes what the sandbox of `transformers` makes of chat templates.

    python make_golden.py --templates LLAMA_CPP/models/templates [--out FOLDER]

needs `transformers` and llama.cpp's template folder (in llama-cpp-python's source distribution:
`vendor/llama.cpp/models/templates`). `own.json` is for the templates beside this script, which were written for these
tests. `published.json` is for templates of published models: they belong to others, so only their file names, SHA-256
and renders are kept.

Each JSON file: `engine`; `now`, the local time that `strftime_now` saw; `bos_token` and `eos_token`; `conversations` by
name; `templates` with `name`, `sha256` and `renders`. A render has `conversation`, `add_generation_prompt`, and `text`
or, where the template refuses, `error` (the type) and `message`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import chat_template_utils

NOW = datetime(2026, 11, 21, 9, 5, 0)  # noqa: DTZ001 - what a template sees of it has no zone
BOS, EOS = "<s>", "</s>"
CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "user": [{"role": "user", "content": "Hi there"}],
    "system_and_turns": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi  "},
        {"role": "user", "content": "  How <b>are</b> you? 日本 \n"},
    ],
    "reasoning": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>\nadd them\n</think>\n\n4"},
        {"role": "user", "content": "And {{ 7 * 7 }} {% raw %}\n\n?"},
    ],
    "many_turns": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "stop"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "<|im_end|> \"q\" 'q' \\n \t"},
    ],
    "assistant_first": [{"role": "assistant", "content": "Hello, I begin."}, {"role": "user", "content": "ok"}],
    "unknown_role": [{"role": "critic", "content": "no"}],
    "empty": [],
}
PUBLISHED = (
    "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen3-Coder", "Qwen3.5-4B", "meta-llama-Llama-3.2-3B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407", "microsoft-Phi-3.5-mini-instruct", "google-gemma-2-2b-it",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "HuggingFaceTB-SmolLM3-3B", "ibm-granite-granite-3.3-2B-Instruct",
    "openai-gpt-oss-120b", "GLM-4.6", "llama-cpp-rwkv-world",
)  # fmt: skip


class FrozenClock(datetime):
    """Stands in for the clock that `strftime_now` reads."""

    @classmethod
    def now(cls, tz: Any = None) -> FrozenClock:
        return cls(*NOW.timetuple()[:6])


def render(source: str, conversation: str, add_generation_prompt: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"conversation": conversation, "add_generation_prompt": add_generation_prompt}
    try:
        template = chat_template_utils._compile_jinja_template(source)
        record["text"] = template.render(
            messages=CONVERSATIONS[conversation],
            add_generation_prompt=add_generation_prompt,
            bos_token=BOS,
            eos_token=EOS,
            tools=None,
        )
    except Exception as error:  # noqa: BLE001 - what a template raises depends on the template
        record |= {"error": type(error).__name__, "message": str(error)}
    return record


def golden(paths: list[Path]) -> dict[str, Any]:
    templates = [
        {
            "name": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "renders": [
                render(path.read_text(encoding="utf-8"), conversation, add_generation_prompt)
                for conversation in CONVERSATIONS
                for add_generation_prompt in (True, False)
            ],
        }
        for path in paths
    ]
    return {
        "engine": f"transformers {transformers.__version__}",
        "now": NOW.isoformat(),
        "bos_token": BOS,
        "eos_token": EOS,
        "conversations": CONVERSATIONS,
        "templates": templates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=Path, required=True, help="llama.cpp's folder models/templates")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    chat_template_utils.datetime = FrozenClock
    own = sorted(Path(__file__).parent.glob("*.jinja"))
    published = [options.templates / f"{name}.jinja" for name in PUBLISHED]
    for name, paths in (("own", own), ("published", published)):
        record, target = golden(paths), options.out / f"{name}.json"
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")
        renders = [entry for template in record["templates"] for entry in template["renders"]]
        refused = sum("error" in entry for entry in renders)
        print(f"{target.name}  {len(paths)} templates, {len(renders)} renders, {refused} refused")


if __name__ == "__main__":
    main()
