"""The translator: soft prompt in, instruction out."""
