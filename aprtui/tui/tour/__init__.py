"""The guided tour: a planted fault, found by the user with the keys of the app."""
