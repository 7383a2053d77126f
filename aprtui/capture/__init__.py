"""Captures of models that run in PyTorch, whoever wrote them."""
