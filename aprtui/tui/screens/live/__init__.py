"""The live screen: a model while it generates."""
