"""What the commands that compare share: options, criteria, text, next steps."""
