"""Rubbish for everything that reads: whatever the bytes, a reader answers or refuses with one of our own errors.

python -m tests.fuzz --minutes 60                 # the long run: all harnesses in turn
python -m tests.fuzz --only gguf --executions 100000
python -m tests.fuzz --only torch --guided        # by coverage, with atheris where that is installed
"""
