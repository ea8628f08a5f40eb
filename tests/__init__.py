"""Every test of Tokenomics."""
