"""Contracts: YAML documents that say what must hold, what was proved, and by what evidence.

Imports go down this list only:

| part | subject |
|---|---|
| `panel`, `rollup`, `lint`, `changes` | a contract on a screen; all contracts; drift; versions and promotion |
| `evaluation`, `binding`, `commands` | the judgement on a falsifier, the stages it is about, the command it gives |
| `evidence` | recorded judgements, and whether they still hold |
| `checks` | the built-in checks, their arguments, and which check judges which falsifier |
| `documents` | reading and validating contracts |
"""
