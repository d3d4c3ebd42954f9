"""The performance goals of docs/design.md, each a script that prints ratios against a peer or floor of the same run."""
