"""Bugs written by hand into running models of transformers, and what a replay says of them.

Each is what an engineer does who ports an engine: a function replaced, a weight, a mask, a cache or a configuration
changed. Nothing here reads `aprtui.engine.alternatives`, so that the set says what the table there is worth:
`python -m tests.bugs FOLDER_OF_MODELS`.
"""
