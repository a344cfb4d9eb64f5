"""What a run leaves behind, and what a client keeps: files that are whole or not there.

Import from the modules; this package names nothing, so that those who need JSON only do not load
torch.
"""
