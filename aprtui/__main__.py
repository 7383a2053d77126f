"""`python -m aprtui`."""

from aprtui.cli.main import main

main()
