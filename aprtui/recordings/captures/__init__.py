"""Recordings as captures: the stages that their nodes are."""
