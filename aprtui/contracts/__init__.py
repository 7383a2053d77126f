"""Contracts: YAML documents that say what must hold, what was proved, and by what evidence.

Imports go down this list only:

| part | subject |
|---|---|
| `codes` | every code of a finding, with what to do |
| `panel`, `rollup`, `lint`, `audit`, `changes` | a contract on a screen; all contracts; drift; coverage; versions |
| `evaluation`, `binding`, `commands` | the judgement on a falsifier, the stages it is about, the command it gives |
| `source_tree`, `suppression` | what exists in a source tree; findings that do not count |
| `evidence` | recorded judgements, and whether they still hold |
| `checks` | the built-in checks, their arguments, and which check judges which falsifier |
| `documents` | reading and validating contracts |
"""
