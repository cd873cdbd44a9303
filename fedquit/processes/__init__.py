"""Child processes of a command: kept alive, ended with all that they started, and ended when it ends."""
