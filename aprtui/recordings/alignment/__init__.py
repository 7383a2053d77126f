"""Two recordings side by side: which nodes compute the same, by the weights they consume and by exact values."""
