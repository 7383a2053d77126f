"""The engine process: the app runs its engine in a child process, behind shared memory and a pipe."""
