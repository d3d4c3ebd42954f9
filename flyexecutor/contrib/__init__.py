"""Integrations with other libraries, one per file; each is imported only when it is used.

They know our public names; nothing of ours knows them.
"""
