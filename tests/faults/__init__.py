"""What happens when things go wrong around the program: ends, disks, signals, hostile names, other writers."""
