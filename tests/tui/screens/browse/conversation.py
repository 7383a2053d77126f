"""An agent trace: a prompt, its answer, and a call that failed."""

SAID = (
    '{"v": 1, "kind": "session_start", "model": "m", "actor": "apr-code", "ts": "@1777291200"}',
    '{"v": 1, "kind": "user_prompt", "turn": 0, "text": "Tidy up"}',
    '{"v": 1, "kind": "assistant_turn", "turn": 1, "blocks": [{"type": "text", "text": "I shall."}]}',
    '{"v": 1, "kind": "tool_result", "turn": 2, "ok": false, "content": "no such file\\u001b[31m"}',
    '{"v": 1, "kind": "session_end", "turn": 2, "elapsed_ms": 500, "tokens_in": 7, "tokens_out": 5}',
)
