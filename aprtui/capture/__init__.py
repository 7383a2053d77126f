"""Captures of models that run in PyTorch, whoever wrote them."""

from aprtui.capture.session import capture as capture
