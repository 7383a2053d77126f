"""The contracts screen: claims, how far they go, and whether they hold."""
