"""How often the verdict is wrong: the federations, the counts and the page."""
