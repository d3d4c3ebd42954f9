"""The futures of this process: how calls leave it, how outcomes come back, and the threads for both.

Knows the rooms below, which never know it: what they have to tell, they tell by callbacks that `client` gives them.
"""
