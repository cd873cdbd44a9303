"""The Python API: what `from fedquit import ...` finds. The commands of researchers call the same functions."""
