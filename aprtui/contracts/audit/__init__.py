"""How well contracts are covered: the audit, scores and levels of `pv`, and registries that bind equations to code."""
