"""The plain numpy engine: the oracle of the fast ones, and the fallback where they cannot run."""
