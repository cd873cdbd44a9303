"""The commands that list what can be chosen by name: methods, objectives, strategies, codecs."""
