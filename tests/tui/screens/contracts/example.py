"""A contract with a falsifier for each result: PASS, FAIL, not testable, no check."""

CONTRACT = """\
metadata:
  version: 1.0.0
  status: PROPOSED
  kind: schema
  references: [none]
equations:
  bytes: {formula: "count = product of the shape"}
falsification_tests:
  - id: ALPHA-1
    rule: every header is right
    prediction: the count is the product
    test: read them
    if_fails: the writer is wrong
    status: FUNCTIONAL
    check: header_arithmetic
  - id: ALPHA-2
    rule: gates are alike
    prediction: cosine of ffn_gate is 1
    check: {name: cosine_floor, stages: [ffn_gate], at_least: 0.999999}
    status: BLOCKER_FIXTURE_ABSENT
  - id: ALPHA-3
    rule: experts are chosen alike
    prediction: the same
    check: {name: count_parity, stages: [moe_router]}
  - id: ALPHA-4
    rule: people are happy
    prediction: they say so
"""
