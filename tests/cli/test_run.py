"""`aprtui run`: tokens to stdout, speeds to stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from aprtui.engine.sessions.session_file import session_summary
from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from aprtui.resources import embedded_model
from tests.cli.conftest import Outcome
from tests.model.gguf_files import write_model

Run = Callable[..., Outcome]

FAULT = "layer=2,stage=ffn_gate,kind=scale,magnitude=0.5"


def test_embedded_model_continues_the_prompt_of_the_readme(aprtui: Run) -> None:
    done = aprtui("run", "-p", "def fib(n):", "-n", 64)
    assert done.code == 0
    assert len(done.out) > 40
    assert "tokens/s" in done.err
    assert aprtui("run", "-p", "def fib(n):", "-n", 64).out == done.out, "the seed is fixed"
    assert aprtui("run", "-p", "def fib(n):", "-n", 64, "--seed", 1).out != done.out


def test_json_gives_a_record_a_token_and_the_speeds_last(aprtui: Run) -> None:
    done = aprtui("run", "-p", "import", "-n", 5, "--json", "--temp", 0)
    *tokens, last = [json.loads(line) for line in done.out.splitlines()]
    assert [set(token) for token in tokens] == [{"id", "text", "logprob"}] * len(tokens)
    assert all(token["logprob"] <= 0 for token in tokens)
    assert set(last) == {
        "tokens_per_second", "prefill_tokens_per_second", "backend", "mode", "stop_reason", "tail",
    }  # fmt: skip
    assert last["mode"] == "q8"


def test_chat_goes_through_the_template(aprtui: Run) -> None:
    model = load_model(embedded_model())
    assert model.chat_template is not None
    rendered = model.chat_template.render([{"role": "user", "content": "hello"}])
    chat = aprtui("run", "-p", "hello", "--chat", "-n", 8, "--temp", 0)
    plain = aprtui("run", "-p", rendered, "-n", 8, "--temp", 0)
    assert chat.out == plain.out
    assert chat.out != aprtui("run", "-p", "hello", "-n", 8, "--temp", 0).out


def test_prompt_from_stdin_is_the_prompt() -> None:
    command = [sys.executable, "-m", "aprtui", "run", "-n", "4", "--temp", "0", "-p"]
    piped = subprocess.run([*command, "-"], input="class A:", capture_output=True, text=True, check=True)
    given = subprocess.run([*command, "class A:"], capture_output=True, text=True, check=True)
    assert piped.stdout == given.stdout


def test_no_terminal_streams_a_completion_and_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "aprtui"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("def fib(n):")
    assert "no terminal" in done.stderr


def test_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aprtui", "run", "-p", "def", "-n", "200", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == 4


def test_system_message_comes_before_the_prompt_of_a_chat(aprtui: Run) -> None:
    model = load_model(embedded_model())
    assert model.chat_template is not None
    rendered = model.chat_template.render(
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    )
    chat = aprtui("run", "-p", "hello", "--chat", "--system", "be brief", "-n", 8, "--temp", 0)
    assert chat.out == aprtui("run", "-p", rendered, "-n", 8, "--temp", 0).out
    refused = aprtui("run", "-p", "hello", "--system", "be brief")
    assert refused.code == 2
    assert "--system is a message of a chat: give --chat as well" in refused.err


def test_weights_that_are_decoded_row_by_row_are_named_in_one_line(aprtui: Run, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", weight_type=WeightType.TQ1_0, layers=1)
    done = aprtui("run", path, "-p", "def", "-n", 2)
    assert done.code == 0
    assert [line for line in done.err.splitlines() if "TQ1_0" in line] == [
        "aprtui: 9 tensors TQ1_0: dequantised row by row, slower"
    ]


def test_an_agent_trace_holds_what_was_said_and_what_was_answered(aprtui: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    done = aprtui("run", "-p", "import", "-n", 5, "--temp", 0, "--emit-trace", path)
    start, prompt, answer, end = (json.loads(line) for line in path.read_text().splitlines())
    assert (start["model"], prompt["text"]) == (load_model(embedded_model()).name, "import")
    assert answer["blocks"] == [{"type": "text", "text": done.out.removesuffix("\n")}]
    assert (answer["stop_reason"], end["stop_reason"]) == ("max_tokens", "max_tokens")
    assert (end["tokens_in"], end["tokens_out"]) == (2, 5)


def test_an_agent_trace_that_cannot_be_written_is_one_warning(aprtui: Run, tmp_path: Path) -> None:
    done = aprtui("run", "-p", "import", "-n", 2, "--emit-trace", tmp_path / "nowhere" / "trace.jsonl")
    warnings = [line for line in done.err.splitlines() if "the agent trace cannot be written" in line]
    assert done.code == 0 and done.out and len(warnings) == 1


def test_a_recorded_run_prints_what_it_prints_anyway(aprtui: Run, tmp_path: Path) -> None:
    path, trace = tmp_path / "s.jsonl", tmp_path / "trace.jsonl"
    words = ("run", "-p", "hello", "--chat", "--system", "Be brief.", "-n", 6, "--inject", FAULT)
    done = aprtui(*words, "--record", path, "--emit-trace", trace)
    assert done.out == aprtui(*words).out
    summary = session_summary(path)
    start = summary.start
    assert (summary.tokens, start.said, start.system, start.chat) == (6, "hello", "Be brief.", True)
    assert start.engine.faults == (FAULT,) and start.engine.path is None and "Be brief." in start.prompt
    assert len(trace.read_text().splitlines()) == 4


def test_a_record_that_cannot_be_written_ends_the_run(aprtui: Run, tmp_path: Path) -> None:
    done = aprtui("run", "-p", "hello", "-n", 2, "--record", tmp_path / "nowhere" / "s.jsonl")
    assert done.code == 4 and "cannot be written" in done.err and not done.out
