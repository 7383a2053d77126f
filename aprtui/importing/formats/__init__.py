"""The formats of other tools' captures, a file each; `registry.FORMATS` lists them."""
