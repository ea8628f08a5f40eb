"""The ``tokenomics`` command: send usage, publish policy and directory, ask quota, operate services."""
