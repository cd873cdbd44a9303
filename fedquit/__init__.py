"""fedquit: federated learning that can forget.

The code lives in the top-level folders `client/`, `server/`, `strategies/`, `unlearning/` and
`simulations/`; they are imported as `fedquit.client`, `fedquit.server` and so on. In a checkout the
links beside this file show them to type checkers; in a Flower bundle, which carries no links, and
where links were checked out as text files, the path entry below finds the folders themselves.
"""

from pathlib import Path

__version__ = "0.1.0"

__path__.append(str(Path(__file__).resolve().parent.parent))
