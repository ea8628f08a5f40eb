"""Contracts of Tokenomics: event models, the CloudEvents envelope and the topic catalogue.

Nothing here does I/O except `catalogue`, which reads the topic files that ship with the package.
"""
