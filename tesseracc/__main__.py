"""`python -m tesseracc`."""

from tesseracc.cli.main import main

main()
