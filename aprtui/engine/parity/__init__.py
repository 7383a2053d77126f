"""The parity gate: whether a device computes what the CPU computes, and what was found before."""
