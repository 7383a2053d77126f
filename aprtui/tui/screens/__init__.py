"""The screens, a folder each. No screen imports another; what two of them use is a widget or a drawing function."""
