"""The browse screen: captures and models on this machine."""
