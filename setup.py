"""The project is no package to install: what pip says of it instead."""

raise SystemExit("SMFDM is run from its folder, with its requirements: pip install -r requirements.txt (README.md)")
