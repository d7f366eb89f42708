"""`python -m lanac`."""

from lanac.cli.main import main

main()
