"""The benchmarks behind `aprtui bench`: ratios measured in one run, with the peer or the limit beside them."""
