"""The routes of the Machines API, a module for each resource: what is asked over HTTP, and how it is answered.

Knows Flask and the machines below; starts no process and serves nothing.
"""
