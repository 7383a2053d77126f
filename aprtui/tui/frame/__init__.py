"""What stands around every screen: the base screen, keys, chords, jump mode, configuration, state strings."""
