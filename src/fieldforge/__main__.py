"""``python -m fieldforge``: the command line."""

from fieldforge.apps.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
