"""Model files: configuration, weights bound to the stage graph, tokenizer and chat template."""
