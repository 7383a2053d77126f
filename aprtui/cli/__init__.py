"""The command line: click commands, exit codes, output streams. Data goes to stdout, everything else to stderr."""
