"""Run tools/export.py, which had this name before."""

from mmesbnn import cli  # before what takes time to import

# isort: split

from export import main

if __name__ == '__main__':
    cli.run(main)
