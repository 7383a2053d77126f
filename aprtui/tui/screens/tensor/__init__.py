"""The tensor screen: one stage tensor or weight, down to its bytes."""
