"""Built-in checks, which judge a falsifier on a capture, a pair of captures, a model, or the contract itself.

`registry.CHECKS` lists them all.
"""
