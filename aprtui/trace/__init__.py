"""APRT bytes, capture directories, manifests and the stage graph. Needs numpy and the standard library only."""
