"""Other ways to compute a stage: what an engine with a bug does. Replay tries them, evaluation plants them."""
