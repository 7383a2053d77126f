"""The help screen, made from the bindings of the screen that it explains."""
