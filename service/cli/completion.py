"""``completion``: the script that lets a shell complete the commands and their options."""

import argparse
import sys

import shtab


def run(options: argparse.Namespace) -> int:
    """Prints the script for a shell."""
    sys.stdout.write(shtab.complete(options.parser, options.shell))
    return 0
