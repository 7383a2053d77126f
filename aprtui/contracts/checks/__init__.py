"""Built-in checks: what judges a falsifier by machine, on a capture, on a pair of captures, or on the contract itself.

`registry.CHECKS` lists them all.
"""
