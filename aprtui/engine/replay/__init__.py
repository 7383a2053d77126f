"""Replay: each stage of a capture computed again from its captured inputs, which shows the error it adds itself."""
