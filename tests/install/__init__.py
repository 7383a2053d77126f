"""The program as strangers get it: a wheel and an sdist, each in an environment with nothing else in it.

python -m tests.install                  # builds, installs, runs all of it, and prints the figures of a first start
python -m tests.install --only figures   # the figures alone
"""
