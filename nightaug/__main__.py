"""``python -m nightaug``, also what torchrun starts."""

from nightaug.cli import main

main()
