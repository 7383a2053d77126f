"""Quality gates of a model on this engine: what `aprtui qa` runs."""
