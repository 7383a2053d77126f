"""What makes captures in a sweep: a file for each kind of engine, which `registry` lists."""
