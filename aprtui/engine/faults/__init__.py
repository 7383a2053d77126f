"""Fault injection: real bugs of inference engines, made on purpose, where and when the user says."""
