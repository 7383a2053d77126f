"""Sessions on file: what an engine process tells of a run, written as it comes and played without a model."""
