"""``python -m tokenomics_cli``: the ``tokenomics`` command."""

from tokenomics_cli.app import main

if __name__ == "__main__":
    main()
