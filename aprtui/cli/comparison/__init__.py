"""What the commands that compare share: options, grounds, text, next steps."""
