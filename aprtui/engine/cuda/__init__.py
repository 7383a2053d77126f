"""The CUDA backend: detection without a driver's help, and what a model needs on a device."""
