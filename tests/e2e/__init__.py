"""From the command line to the answer of a check, on a real stack."""
