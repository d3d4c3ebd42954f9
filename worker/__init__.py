"""The image that runs on Fly Machines, and the functions that the demo submits to it."""
