"""Builds a cascade folder: `python export/build.py SYSTEM`; `-h` lists the systems and options.

The work is in `edgereel_export.cli`; this file only makes the command short in a clone.
"""

import sys


def _main() -> int:
    try:
        from edgereel_export.cli import main

        return main() or 0
    except ModuleNotFoundError as error:
        print(
            f"build.py: error: the module {error.name} is not installed for {sys.executable}; "
            "building needs the exporter and its libraries: "
            "run `pip install -e '.[ort,export]'` in the repository, or `make demo`, which does it "
            "in .venv, and then `. .venv/bin/activate`.",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(_main())
