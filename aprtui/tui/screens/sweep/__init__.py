"""The sweep screen."""
