"""Comparing captures: parse → match → diff → judge → report, as functions without side effects.

Noise floors and injected errors come in as values; nothing here runs a model.
"""
